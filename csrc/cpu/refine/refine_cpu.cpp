// The operators gcn_kernels::refine and gcn_kernels::refine_backward on the CPU: allocate the results, cut the problem into units
// of work, hand them to the kernels for this CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cmath>
#include <tuple>
#include <vector>

#include "../../refine/arguments.h"
#include "../dense.h"
#include "../huge_pages.h"
#include "../image.h"
#include "../parallel.h"
#include "../spare_memory.h"
#include "kernels.h"
#include "plain.h"

namespace gcn::cpu {
namespace refine {
namespace {

using gcn::refine::check_bias, gcn::refine::check_maps;
using torch::stable::Tensor;

// Backward, sums over pixels are made for this many units, for any number of threads; forward, each thread gets a few.
constexpr int64_t kBackwardUnits = 16, kUnitsPerThread = 2;
// Units are dealt out in at most this many groups; each has sums of its own.
constexpr int64_t kMostGroups = 32;

#include "../kernels_in_use.inl"

Sizes sizes_of(const Tensor& x, const Tensor& w1, const Tensor& w2, const std::optional<Tensor>& b1) {
  check_maps(x, w1, w2, b1);
  return {x.size(0), x.size(1), w1.size(0), x.size(2), x.size(3)};
}

template <class A>
std::vector<A> dense_bias(const std::optional<Tensor>& b) {
  return b ? dense_vector<A>(*b) : std::vector<A>();
}

// w [outputs][inputs][3][3] -> the weights of the transposed convolution, [inputs][outputs][3][3] with the taps in reverse order.
template <class A>
std::vector<A> transposed(const std::vector<A>& w, int64_t outputs, int64_t inputs) {
  std::vector<A> to(w.size());
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t c = 0; c < inputs; ++c) {
      for (int tap = 0; tap < 9; ++tap) to[(c * outputs + o) * 9 + 8 - tap] = w[(o * inputs + c) * 9 + tap];
    }
  }
  return to;
}

// Winograd's method multiplies a quarter as often, transforms besides, and fills vectors with every fourth column.
bool winograd_is_faster(const Sizes& s) {
  const auto filled = [&](int64_t columns) { return static_cast<double>((s.w + columns - 1) / columns * columns); };
  const double products = static_cast<double>(s.c * s.m), transforms = static_cast<double>(9 * s.c + 8 * s.m);
  return (2.25 * products + transforms) * filled(64) < 9 * products * filled(16);
}

std::vector<float> packed(const Method& k, int64_t outputs, int64_t inputs, const std::vector<float>& w) {
  std::vector<float> to(static_cast<size_t>(k.packed_size(outputs, inputs)));
  k.pack(outputs, inputs, w.data(), to.data());
  return to;
}

// relu, as PyTorch has it: nan stays.
template <class A>
std::vector<A> relu(std::vector<A> of) {
  for (A& value : of) value = value < 0 ? A(0) : value;
  return of;
}

Tensor refine(const Tensor& x, const Tensor& w1, const Tensor& w2, const std::optional<Tensor>& b1,
              const std::optional<Tensor>& b2, bool channels_last) {
  const Sizes s = sizes_of(x, w1, w2, b1);
  check_bias("b2", b2, s.c, x);
  const Tensor y = new_tensor(x, {s.n, s.c, s.h, s.w}, channels_last);
  prepare_pages(y);
  if (s.n == 0) return y;
  if (is_plain(x)) {
    with_arithmetic(x.scalar_type(), [&](auto a) {
      using A = decltype(a);
      const std::vector<A> from = dense_copy<A>(input_map(x));
      const std::vector<A> h = relu(conv_plain({s.n, s.c, s.h, s.w}, from, dense_copy<A>(input_map(w1)), dense_bias<A>(b1), s.m));
      std::vector<A> to = conv_plain({s.n, s.m, s.h, s.w}, h, dense_copy<A>(input_map(w2)), dense_bias<A>(b2), s.c);
      for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
      store_dense(to, output_map(y));
    });
    return y;
  }
  const Tiling tiling(s, kUnitsPerThread * torch::stable::get_num_threads());
  const std::vector<float> dense1 = dense_copy<float>(input_map(w1)), dense2 = dense_copy<float>(input_map(w2));
  const std::vector<float> bias1 = dense_bias<float>(b1), bias2 = dense_bias<float>(b2);
  const auto run = [&](const Method& k) {
    const std::vector<float> packed1 = packed(k, s.m, s.c, dense1), packed2 = packed(k, s.c, s.m, dense2);
    const Forward call{s,
                       input_image(x),
                       output_image(y),
                       packed1.data(),
                       packed2.data(),
                       b1 ? bias1.data() : nullptr,
                       b2 ? bias2.data() : nullptr};
    const int64_t scratch = k.forward_scratch(s, tiling) * static_cast<int64_t>(sizeof(float));
    std::atomic<bool> right{true};
    for_each_unit(tiling.units, [&](int64_t unit) {
      if (!k.forward(call, tiling, unit, new_floats(scratch).get())) right = false;
    });
    return right.load();
  };
  if (!winograd_is_faster(s) || !run(kernels()->winograd)) run(kernels()->direct);
  return y;
}

// Where the gradients go; those that are not wanted are null.
struct Results {
  const Tensor *x, *w1, *w2, *b1, *b2;
};

template <class A>
void store_vector(const A* from, const Tensor& to) {
  with_storage_type(to.scalar_type(), [&](auto storage) {
    convert(from, 1, static_cast<decltype(storage)*>(to.mutable_data_ptr()), 1, to.numel());
  });
}

template <class A>
void backward_plain(const Sizes& s, const Tensor& dy, const Tensor& x, const Tensor& w1, const Tensor& w2,
                    const std::optional<Tensor>& b1, const Results& to) {
  const Planes outer{s.n, s.c, s.h, s.w}, inner{s.n, s.m, s.h, s.w};
  const std::vector<A> g = dense_copy<A>(input_map(dy)), in = dense_copy<A>(input_map(x));
  const std::vector<A> dense1 = dense_copy<A>(input_map(w1)), dense2 = dense_copy<A>(input_map(w2));
  std::vector<A> a = conv_plain(outer, in, dense1, dense_bias<A>(b1), s.m);
  std::vector<A> da = conv_plain(outer, g, transposed(dense2, s.c, s.m), {}, s.m);
  for (size_t i = 0; i < a.size(); ++i) da[i] = a[i] <= 0 ? A(0) : da[i];
  if (to.x) {
    std::vector<A> dx = conv_plain(inner, da, transposed(dense1, s.m, s.c), {}, s.c);
    for (size_t i = 0; i < dx.size(); ++i) dx[i] += g[i];
    store_dense(dx, output_map(*to.x));
  }
  if (to.w1) store_dense(weight_gradient_plain(outer, in, da, s.m), output_map(*to.w1));
  if (to.w2) store_dense(weight_gradient_plain(inner, relu(std::move(a)), g, s.c), output_map(*to.w2));
  if (to.b1) store_vector(sums_plain(outer, da, s.m).data(), *to.b1);
  if (to.b2) store_vector(sums_plain(outer, g, s.c).data(), *to.b2);
}

void backward_vectors(const Sizes& s, const Tensor& dy, const Tensor& x, const Tensor& w1, const Tensor& w2,
                      const std::optional<Tensor>& b1, const Results& to) {
  if (to.x) prepare_pages(*to.x);
  const Tiling tiling(s, kBackwardUnits);
  const Sums layout(s);
  const bool sums_wanted = to.w1 || to.w2 || to.b1 || to.b2;
  const int64_t groups = sums_wanted ? std::min(tiling.units, kMostGroups) : tiling.units;
  const std::vector<float> dense1 = dense_copy<float>(input_map(w1)), bias1 = dense_bias<float>(b1);
  const std::vector<float> dense2t = transposed(dense_copy<float>(input_map(w2)), s.c, s.m);
  std::vector<float> sums;
  const auto run = [&](const Method& k, bool careful) {
    const std::vector<float> packed1 = packed(k, s.m, s.c, dense1), packed2t = packed(k, s.m, s.c, dense2t);
    const std::vector<float> packed1t = to.x ? packed(k, s.c, s.m, transposed(dense1, s.m, s.c)) : std::vector<float>();
    const Backward call{s,
                        input_image(dy),
                        input_image(x),
                        to.x ? output_image(*to.x) : fft::Image{},
                        packed1.data(),
                        packed2t.data(),
                        packed1t.data(),
                        b1 ? bias1.data() : nullptr,
                        to.w1 || to.w2,
                        to.b1 || to.b2,
                        careful};
    const int64_t scratch = k.backward_scratch(s, tiling) * static_cast<int64_t>(sizeof(float));
    std::atomic<bool> right{true};
    sums.assign(static_cast<size_t>(sums_wanted ? groups * layout.total : 0), 0);
    for_each_unit(groups, [&](int64_t g) {
      const Floats floats = new_floats(scratch);
      for (int64_t unit = g * tiling.units / groups; unit < (g + 1) * tiling.units / groups; ++unit) {
        float* sum = sums_wanted ? sums.data() + g * layout.total : nullptr;
        if (!k.backward(call, tiling, unit, floats.get(), sum)) right = false;
      }
    });
    return right && std::all_of(sums.begin(), sums.end(), [](float value) { return std::isfinite(value); });
  };
  if (!run(winograd_is_faster(s) ? kernels()->winograd : kernels()->direct, false)) run(kernels()->direct, true);
  // In double, in the order of the groups.
  std::vector<double> totals(static_cast<size_t>(sums_wanted ? layout.total : 0));
  for (size_t i = 0; i < sums.size(); i += totals.size()) {
    for (size_t j = 0; j < totals.size(); ++j) totals[j] += static_cast<double>(sums[i + j]);
  }
  const auto sum = [&](int64_t i) { return static_cast<float>(totals[i]); };
  const auto at = [&](int64_t m, int64_t c, int64_t tap) { return ((m * 3 + tap / 3) * s.c + c) * 3 + tap % 3; };
  std::vector<float> dense(static_cast<size_t>(std::max({s.m * s.c * 9, s.m, s.c})));
  if (to.w1) {
    for (int64_t m = 0; m < s.m; ++m)
      for (int64_t c = 0; c < s.c; ++c)
        for (int64_t tap = 0; tap < 9; ++tap) dense[(m * s.c + c) * 9 + tap] = sum(layout.w1 + at(m, c, tap));
    store_dense(dense, output_map(*to.w1));
  }
  if (to.w2) {
    for (int64_t m = 0; m < s.m; ++m)
      for (int64_t c = 0; c < s.c; ++c)
        for (int64_t tap = 0; tap < 9; ++tap) dense[(c * s.m + m) * 9 + tap] = sum(layout.w2 + at(m, c, 8 - tap));
    store_dense(dense, output_map(*to.w2));
  }
  const auto store_bias = [&](const Tensor* t, int64_t first) {
    if (!t) return;
    for (int64_t i = 0; i < t->numel(); ++i) dense[i] = sum(first + i);
    store_vector(dense.data(), *t);
  };
  store_bias(to.b1, layout.b1);
  store_bias(to.b2, layout.b2);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> refine_backward(const Tensor& dy, const Tensor& x, const Tensor& w1,
                                                                   const Tensor& w2, const std::optional<Tensor>& b1,
                                                                   int64_t wanted) {
  const Sizes s = sizes_of(x, w1, w2, b1);
  const gcn::refine::Gradients found(dy, x, w1, w2, wanted);
  const auto chosen = [&](int bit, const Tensor& t) { return wanted >> bit & 1 ? &t : nullptr; };
  const Results to{chosen(0, found.x), chosen(1, found.w1), chosen(2, found.w2), chosen(3, found.b1), chosen(4, found.b2)};
  if (s.n == 0) {
    for (const Tensor* t : {to.w1, to.w2, to.b1, to.b2})
      if (t) torch::stable::zero_(const_cast<Tensor&>(*t));
  } else if (is_plain(x)) {
    with_arithmetic(x.scalar_type(), [&](auto a) { backward_plain<decltype(a)>(s, dy, x, w1, w2, b1, to); });
  } else {
    backward_vectors(s, dy, x, w1, w2, b1, to);
  }
  return found.results();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CPU, m) {
  m.impl("refine", TORCH_BOX(&refine));
  m.impl("refine_backward", TORCH_BOX(&refine_backward));
}

}  // namespace refine
}  // namespace gcn::cpu
