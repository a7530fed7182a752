// The operators gcn_kernels::doubling and gcn_kernels::doubling_backward on the CPU: allocate the results, cut the problem into
// units of work, hand them to the kernels for this CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "../../upsample/arguments.h"
#include "../dense.h"
#include "../image.h"
#include "../parallel.h"
#include "../spare_memory.h"
#include "kernels.h"
#include "plain.h"

namespace gcn::cpu {
namespace upsample {
namespace {

using torch::stable::Tensor;

// Units are dealt out in at most this many groups; each has a sum of its own of the weight's gradient.
constexpr int64_t kMostGroups = 32;
constexpr int64_t kForwardColumns = 256, kBackwardColumns = 128;

#include "../kernels_in_use.inl"

Sizes sizes_of(const gcn::upsample::Arguments& a) { return {a.n, a.c, a.o, a.h, a.w, a.yh, a.yw, a.k, a.by_itself}; }

// The vectors also multiply with zeros beside the map, which nan and infinity must not meet.
bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

Tensor doubling(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const std::optional<Tensor>& add,
                std::optional<int64_t> height, std::optional<int64_t> width, int64_t groups, bool channels_last) {
  gcn::upsample::Arguments arguments(x, weight, groups);
  arguments.check_result(x, bias, add, height, width);
  const Sizes s = sizes_of(arguments);
  const Tensor y = new_tensor(x, {s.n, s.o, s.yh, s.yw}, channels_last);
  if (y.numel() == 0) return y;
  const auto plain = [&](auto a) {
    using A = decltype(a);
    const std::vector<A> b = bias ? dense_vector<A>(*bias) : std::vector<A>();
    forward_plain<A>(s, input_map(x), input_map(weight), b.empty() ? nullptr : b.data(), add ? input_map(*add) : Map{},
                     output_map(y));
  };
  if (is_plain(x)) {
    with_arithmetic(x.scalar_type(), plain);
    return y;
  }
  const Kernels& k = *kernels();
  const Tiling tiling(s, kForwardColumns);
  const std::vector<float> w = dense_copy<float>(input_map(weight)), b = bias ? dense_vector<float>(*bias) : std::vector<float>();
  if (!all_finite(w)) {
    plain(float{});
    return y;
  }
  std::vector<float> packed(w.size());
  k.pack_forward(s, w.data(), packed.data());
  const Forward call{s, input_image(x), add ? input_image(*add) : fft::ConstImage{}, output_image(y),
                     b.empty() ? nullptr : b.data()};
  const int64_t scratch = k.forward_scratch(s, tiling) * static_cast<int64_t>(sizeof(float));
  for_each_unit_in_shares(tiling.units,
                          [&](int64_t unit) { k.forward(call, tiling, packed.data(), unit, new_floats(scratch).get()); });
  return y;
}

// dw from the groups' sums: in double, in the order of the groups.
void store_weight_gradient(const Sizes& s, const std::vector<float>& sums, int64_t groups, const Tensor& dw) {
  const int64_t outputs = s.outputs(), width = padded_outputs(outputs), taps = s.taps();
  const Map map = output_map(dw);
  std::vector<float> tile(static_cast<size_t>(outputs * taps));
  for (int64_t c = 0; c < s.c; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t from = (c * s.k + tap / s.k) * sum_pitch(s) + tap % s.k * width;
      for (int64_t o = 0; o < outputs; ++o) {
        double sum = 0;
        for (int64_t g = 0; g < groups; ++g) sum += static_cast<double>(sums[g * sum_size(s) + from + o]);
        tile[o * taps + tap] = static_cast<float>(sum);
      }
    }
    store_tile(map, {c, 0, s.k, 0, s.k}, 0, outputs, tile.data(), 1, taps);
  }
}

void backward_vectors(const Sizes& s, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor* dx,
                      const Tensor* dw) {
  const Kernels& k = *kernels();
  const Tiling tiling(s, kBackwardColumns);
  const int64_t groups = std::min(tiling.units, kMostGroups), size = sum_size(s);
  std::vector<float> packed(static_cast<size_t>(s.weights())), sums(static_cast<size_t>(dw ? groups * size : 0));
  const Map dy_map = input_map(dy), x_map = input_map(x), weight_map = input_map(weight);
  if (dx) {
    const std::vector<float> w = dense_copy<float>(weight_map);
    if (!all_finite(w)) {
      backward_plain<float>(s, dy_map, x_map, weight_map, output_map(*dx), dw ? output_map(*dw) : Map{});
      return;
    }
    k.pack_backward(s, w.data(), packed.data());
  }
  const Backward call{s, input_image(dy), input_image(x), dx ? output_image(*dx) : fft::Image{}, dw != nullptr};
  const int64_t scratch = k.backward_scratch(s, tiling) * static_cast<int64_t>(sizeof(float));
  for_each_unit_in_shares(groups, [&](int64_t g) {
    const Floats floats = new_floats(scratch);
    for (int64_t unit = g * tiling.units / groups; unit < (g + 1) * tiling.units / groups; ++unit) {
      k.backward(call, tiling, packed.data(), unit, floats.get(), dw ? sums.data() + g * size : nullptr);
    }
  });
  if (!dw) return;
  if (all_finite(sums)) {
    store_weight_gradient(s, sums, groups, *dw);
  } else {
    backward_plain<float>(s, dy_map, x_map, weight_map, Map{}, output_map(*dw));
  }
}

std::tuple<Tensor, Tensor, Tensor> doubling_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, int64_t wanted,
                                                     int64_t groups) {
  gcn::upsample::Arguments arguments(x, weight, groups);
  arguments.check_gradient(x, dy);
  const Sizes s = sizes_of(arguments);
  const bool want_x = wanted & 1, want_w = wanted & 2, want_b = wanted & 4;
  const gcn::upsample::Gradients found(x, weight, s.o, wanted);
  const Tensor &dx = found.x, &dw = found.weight, &db = found.bias;
  const bool empty = s.n == 0;
  if (empty && want_w) torch::stable::zero_(const_cast<Tensor&>(dw));
  if (!empty && (want_x || want_w)) {
    const Tensor *to_x = want_x ? &dx : nullptr, *to_w = want_w ? &dw : nullptr;
    if (is_plain(x)) {
      with_arithmetic(x.scalar_type(), [&](auto a) {
        backward_plain<decltype(a)>(s, input_map(dy), input_map(x), input_map(weight), to_x ? output_map(*to_x) : Map{},
                                    to_w ? output_map(*to_w) : Map{});
      });
    } else {
      backward_vectors(s, dy, x, weight, to_x, to_w);
    }
  }
  if (want_b) bias_gradient(input_map(dy), db.mutable_data_ptr());
  return {dx, dw, db};
}

// As graphs saved before `doubling` call them.
Tensor upsample(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, bool channels_last) {
  check(weight.dim() == 4 && weight.size(2) == 4, "weight: expected [C, O, 4, 4]");
  return doubling(x, weight, bias, std::nullopt, std::nullopt, std::nullopt, 1, channels_last);
}

std::tuple<Tensor, Tensor, Tensor> upsample_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, int64_t wanted) {
  return doubling_backward(dy, x, weight, wanted, 1);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CPU, m) {
  m.impl("doubling", TORCH_BOX(&doubling));
  m.impl("doubling_backward", TORCH_BOX(&doubling_backward));
  m.impl("upsample", TORCH_BOX(&upsample));
  m.impl("upsample_backward", TORCH_BOX(&upsample_backward));
}

}  // namespace upsample
}  // namespace gcn::cpu
