#include "program.h"

#include <algorithm>

namespace gcn::cpu::strips {
namespace {

constexpr int kNone = -1;
// Rows of a block, and what halos are rounded up to: then vertical convolutions always write whole groups of rows.
constexpr int64_t kBlockRows = 16, kRowGroup = 8;

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

int add(Program& p, int image = kNone, bool result = false) {
  p.buffers.push_back({image, result});
  return static_cast<int>(p.buffers.size()) - 1;
}

// A small map is one block.
constexpr int64_t kSmallMap = 32;

// A block of a map with vertical dilation d is d interleaved problems, each of which should still fill a group of rows.
int64_t block_rows(const Program& p, int64_t height) {
  if (height <= kSmallMap) return height;
  int64_t rows = kBlockRows;
  for (const Kernel& k : p.kernels)
    if (k.kh > 1) rows = std::max(rows, kRowGroup * k.dh);
  return std::min(rows, height);
}

// How far each map reaches around the tile, and how long its rows live.
void measure(Program& p, int64_t height) {
  p.rows = block_rows(p, height);
  const int64_t group = height == p.rows ? height : kRowGroup;
  std::vector<Buffer>& b = p.buffers;
  const auto need = [&](int buffer, int64_t rh, int64_t rw, int64_t low) {
    b[buffer].rh = std::max(b[buffer].rh, rh);
    b[buffer].rw = std::max(b[buffer].rw, rw);
    b[buffer].low = std::min(b[buffer].low, low);
  };
  for (const Dot& dot : p.dots) {
    const Kernel& k = p.kernels[dot.kernel];
    need(dot.g, 0, 0, 0);
    if (dot.weight) need(dot.x, k.reach_h(), k.reach_w(), -k.reach_h());
  }
  for (auto step = p.steps.rbegin(); step != p.steps.rend(); ++step) {
    Buffer& dst = b[step->dst];
    // All steps that write a map come after all that read it in this order, so its reach is known by now.
    dst.rh = round_up(dst.rh, group);
    const Kernel& k = p.kernels[step->kernel];
    need(step->src, dst.rh + k.reach_h(), dst.rw + k.reach_w(), dst.rh - k.reach_h());
    if (step->addend != kNone && step->addend != step->dst) need(step->addend, dst.rh, dst.rw, dst.rh);
  }
  for (Buffer& buffer : b) {
    buffer.rh = round_up(buffer.rh, group);
    buffer.low = std::min(buffer.low, buffer.rh);
  }
}

}  // namespace

int64_t Program::taps() const {
  int64_t sum = 0;
  for (const Kernel& k : kernels) sum += k.taps();
  return sum;
}

int64_t Program::max_rh() const {
  int64_t most = 0;
  for (const Buffer& buffer : buffers) most = std::max(most, buffer.rh);
  return most;
}

Program forward_program(const Form& form, int64_t height) {
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
  measure(p, height);
  return p;
}

Program backward_program(const Form& form, const WantedGradients& wanted, int64_t height) {
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
  measure(p, height);
  return p;
}

}  // namespace gcn::cpu::strips
