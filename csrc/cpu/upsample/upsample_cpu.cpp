// The operators gcn_kernels::upsample and gcn_kernels::upsample_backward on the CPU: allocate the results, cut the problem into
// units of work, hand them to the kernels for this CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "../../dtype.h"
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

// Users meet the checks of gcn_kernels/upsample/functional.py, which explain themselves; the ones here only keep a direct call of
// the registered operators from reading out of bounds.
Sizes sizes_of(const Tensor& x, const Tensor& weight) {
  check(x.dim() == 4, "x: expected [N, C, H, W], got ", x.dim(), " dimensions");
  check_dtype(x.scalar_type());
  check(weight.dim() == 4 && weight.size(0) == x.size(1) && weight.size(2) == 4 && weight.size(3) == 4,
        "weight: expected [C, O, 4, 4] with the channels C = ", x.size(1), " of x");
  check(weight.scalar_type() == x.scalar_type() && weight.device() == x.device(), "weight: expected the dtype and device of x");
  return {x.size(0), x.size(1), weight.size(1), x.size(2), x.size(3)};
}

Tensor upsample(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, bool channels_last) {
  const Sizes s = sizes_of(x, weight);
  check(!bias ||
            (bias->dim() == 1 && bias->size(0) == s.o && bias->scalar_type() == x.scalar_type() && bias->device() == x.device()),
        "bias: expected [", s.o, "] with the dtype and device of x");
  const Tensor y = new_tensor(x, {s.n, s.o, 2 * s.h, 2 * s.w}, channels_last);
  if (y.numel() == 0) return y;
  if (is_plain(x)) {
    with_arithmetic(x.scalar_type(), [&](auto a) {
      using A = decltype(a);
      const std::vector<A> b = bias ? dense_vector<A>(*bias) : std::vector<A>();
      forward_plain<A>(input_map(x), input_map(weight), b.empty() ? nullptr : b.data(), output_map(y));
    });
    return y;
  }
  const Kernels& k = *kernels();
  const Tiling tiling(s, kForwardColumns);
  const std::vector<float> w = dense_copy<float>(input_map(weight)), b = bias ? dense_vector<float>(*bias) : std::vector<float>();
  std::vector<float> packed(w.size());
  k.pack_forward(s, w.data(), packed.data());
  const Forward call{s, input_image(x), output_image(y), b.empty() ? nullptr : b.data()};
  const int64_t scratch = k.forward_scratch(s, tiling) * static_cast<int64_t>(sizeof(float));
  for_each_unit(tiling.units, [&](int64_t unit) { k.forward(call, tiling, packed.data(), unit, new_floats(scratch).get()); });
  return y;
}

// dw from the groups' sums [group][c][kh][kw][padded o]: in double, in the order of the groups.
void store_weight_gradient(const Sizes& s, const std::vector<float>& sums, int64_t groups, const Tensor& dw) {
  const int64_t width = padded_outputs(s.o), size = s.c * 16 * width;
  const Map map = output_map(dw);
  std::vector<float> tile(static_cast<size_t>(s.o * 16));
  for (int64_t c = 0; c < s.c; ++c) {
    for (int64_t tap = 0; tap < 16; ++tap) {
      for (int64_t o = 0; o < s.o; ++o) {
        double sum = 0;
        for (int64_t g = 0; g < groups; ++g) sum += static_cast<double>(sums[g * size + (c * 16 + tap) * width + o]);
        tile[o * 16 + tap] = static_cast<float>(sum);
      }
    }
    store_tile(map, {c, 0, 4, 0, 4}, 0, s.o, tile.data(), 1, 16);
  }
}

void backward_vectors(const Sizes& s, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor* dx,
                      const Tensor* dw) {
  const Kernels& k = *kernels();
  const Tiling tiling(s, kBackwardColumns);
  const int64_t groups = std::min(tiling.units, kMostGroups), size = s.c * 16 * padded_outputs(s.o);
  std::vector<float> packed(static_cast<size_t>(s.c * s.o * 16)), sums(static_cast<size_t>(dw ? groups * size : 0));
  if (dx) k.pack_backward(s, dense_copy<float>(input_map(weight)).data(), packed.data());
  const Backward call{s, input_image(dy), input_image(x), dx ? output_image(*dx) : fft::Image{}, dw != nullptr};
  const int64_t scratch = k.backward_scratch(s, tiling) * static_cast<int64_t>(sizeof(float));
  for_each_unit(groups, [&](int64_t g) {
    const Floats floats = new_floats(scratch);
    for (int64_t unit = g * tiling.units / groups; unit < (g + 1) * tiling.units / groups; ++unit) {
      k.backward(call, tiling, packed.data(), unit, floats.get(), dw ? sums.data() + g * size : nullptr);
    }
  });
  if (!dw) return;
  if (std::all_of(sums.begin(), sums.end(), [](float value) { return std::isfinite(value); })) {
    store_weight_gradient(s, sums, groups, *dw);
  } else {
    // The vectors also multiply with zeros beside the map, which nan and infinity must not meet.
    backward_plain<float>(input_map(dy), input_map(x), input_map(weight), Map{}, output_map(*dw));
  }
}

std::tuple<Tensor, Tensor, Tensor> upsample_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, int64_t wanted) {
  const Sizes s = sizes_of(x, weight);
  check(dy.dim() == 4 && dy.size(0) == s.n && dy.size(1) == s.o && dy.size(2) == 2 * s.h && dy.size(3) == 2 * s.w &&
            dy.scalar_type() == x.scalar_type() && dy.device() == x.device(),
        "dy: expected [N, O, 2H, 2W] in the dtype and on the device of x");
  const bool want_x = wanted & 1, want_w = wanted & 2, want_b = wanted & 4;
  const Tensor dx = want_x ? torch::stable::empty_like(x) : new_tensor(x, {0});
  const Tensor dw = want_w ? torch::stable::empty_like(weight) : new_tensor(x, {0});
  const Tensor db = new_tensor(x, {want_b ? s.o : 0});
  const bool empty = s.n == 0;
  if (empty && want_w) torch::stable::zero_(const_cast<Tensor&>(dw));
  if (!empty && (want_x || want_w)) {
    const Tensor *to_x = want_x ? &dx : nullptr, *to_w = want_w ? &dw : nullptr;
    if (is_plain(x)) {
      with_arithmetic(x.scalar_type(), [&](auto a) {
        backward_plain<decltype(a)>(input_map(dy), input_map(x), input_map(weight), to_x ? output_map(*to_x) : Map{},
                                    to_w ? output_map(*to_w) : Map{});
      });
    } else {
      backward_vectors(s, dy, x, weight, to_x, to_w);
    }
  }
  if (want_b) bias_gradient(input_map(dy), db.mutable_data_ptr());
  return {dx, dw, db};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CPU, m) {
  m.impl("upsample", TORCH_BOX(&upsample));
  m.impl("upsample_backward", TORCH_BOX(&upsample_backward));
}

}  // namespace upsample
}  // namespace gcn::cpu
