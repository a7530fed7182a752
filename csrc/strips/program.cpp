#include "program.h"

#include <algorithm>

namespace gcn::strips {
namespace {

int add(Program& p, int image = kNone, bool result = false) {
  p.buffers.push_back({image, result});
  return static_cast<int>(p.buffers.size()) - 1;
}

}  // namespace

int64_t Program::taps() const {
  int64_t sum = 0;
  for (const Kernel& k : kernels) sum += k.taps();
  return sum;
}

Program forward_program(const Form& form) {
  Program p;
  p.kernels = form.kernels;
  const int x = add(p, 0), y = add(p, 1, true);
  int kernel = 0, a = x;
  if (form.stem) {
    a = add(p);
    p.steps.push_back({kernel++, x, a, kNone, false});
  }
  int addend = form.skip ? a : kNone;
  for (const int64_t length : form.lengths) {
    int from = a;
    for (int64_t i = 0; i < length; ++i) {
      const bool last = i == length - 1;
      const int to = last ? y : add(p);
      p.steps.push_back({kernel++, from, to, last ? addend : kNone, false});
      from = to;
    }
    addend = y;
  }
  return p;
}

Program backward_program(const Form& form, const WantedGradients& wanted) {
  Program p;
  p.kernels = form.kernels;
  const int dy = add(p, 0);
  const bool wants_stem = form.stem && (wanted.weights[0] || wanted.biases[0]);
  const bool wants_da = wanted.x || wants_stem;

  // The inputs of the steps again, as far as a weight's gradient needs them.
  int x = kNone, a = kNone, first = form.stem ? 1 : 0;
  bool wants_a = false;
  for (size_t i = first; i < form.kernels.size(); ++i) wants_a = wants_a || wanted.weights[i];
  if (wants_a || (form.stem && wanted.weights[0])) x = add(p, 1);
  if (wants_a) {
    a = form.stem ? add(p) : x;
    if (form.stem) p.steps.push_back({0, x, a, kNone, false});
  }
  std::vector<int> inputs(form.kernels.size(), kNone);
  if (form.stem) inputs[0] = x;
  int kernel = first;
  for (const int64_t length : form.lengths) {
    int64_t needed = 0;  // inputs of the steps [0, needed)
    for (int64_t i = 0; i < length; ++i)
      if (wanted.weights[kernel + i]) needed = i + 1;
    int from = a;
    for (int64_t i = 0; i < needed; ++i) {
      inputs[kernel + i] = from;
      if (i + 1 == needed) break;
      const int to = add(p);
      p.steps.push_back({static_cast<int>(kernel + i), from, to, kNone, false});
      from = to;
    }
    kernel += static_cast<int>(length);
  }

  // Output gradients, from the end of each chain to its start.
  const bool dx_is_da = !form.stem;
  const int da = !wants_da ? kNone : dx_is_da ? add(p, 2, true) : add(p);
  int addend = form.skip ? dy : kNone;
  kernel = first;
  for (const int64_t length : form.lengths) {
    int64_t needed = wants_da ? 0 : length;  // gradients of the steps [needed, length) are wanted
    for (int64_t i = length - 1; i >= 0; --i)
      if (wanted.weights[kernel + i] || wanted.biases[kernel + i]) needed = std::min(needed, i);
    int g = dy;
    for (int64_t i = length - 1; i >= needed; --i) {
      const int k = static_cast<int>(kernel + i);
      if (wanted.weights[k] || wanted.biases[k]) p.dots.push_back({k, inputs[k], g, wanted.weights[k], wanted.biases[k]});
      if (i == 0 ? !wants_da : i == needed) break;
      const int to = i == 0 ? da : add(p);
      p.steps.push_back({k, g, to, i == 0 ? addend : kNone, true});
      g = to;
    }
    addend = da;
    kernel += static_cast<int>(length);
  }
  if (wants_stem) p.dots.push_back({0, inputs[0], da, wanted.weights[0], wanted.biases[0]});
  if (form.stem && wanted.x) p.steps.push_back({0, da, add(p, 2, true), kNone, true});
  return p;
}

}  // namespace gcn::strips
