// The operators gcn_kernels::doubling and gcn_kernels::doubling_backward on a GPU, and those that graphs of earlier versions
// call: allocate results and workspace, plan, launch. What gcn_cuda.cpp says of streams, memory and graphs holds here too.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <memory>
#include <optional>
#include <tuple>

#include "../../upsample/arguments.h"
#include "../place.h"
#include "../plan_cache.h"
#include "../tensors.h"
#include "upsample_plan.h"

namespace gcn::cuda {
namespace {

using gcn::upsample::Arguments, gcn::upsample::Gradients;

// Checked for all that the kernels count in 32 bits.
UpsampleSizes sizes_of(const Arguments& a, const Tensor& x, const Tensor& weight, bool add) {
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
  for (int64_t d = 0; d < 4; ++d) check(x.size(d) <= kMost, "x: expected sizes below 2^30, got ", x.size(d));
  check(weight.numel() <= kMost, "weight: expected fewer than 2^30 elements, got ", weight.numel());
  return {a.n, a.c, a.o, a.h, a.w, a.yh, a.yw, a.k, a.by_itself, add};
}

std::shared_ptr<const UpsamplePlan> plan_of(const Place& place, const UpsampleSizes& s, Math math, int64_t wanted) {
  static PlanCache<UpsamplePlan> plans;
  constexpr int64_t kForward = -1;
  PlanKey key;
  key.add({place.device(), int64_t(math), s.n, s.c, s.o, s.h, s.w, s.yh, s.yw, s.k, s.by_itself, s.add, wanted});
  return plans.get(key, [&] {
    if (wanted == kForward) return plan_upsample_forward(s, math, place.gpu());
    const auto bit = [&](int i) { return (wanted >> i & 1) != 0; };
    return plan_upsample_backward(s, math, {bit(0), bit(1), bit(2)}, place.gpu());
  });
}

StridedMap map_of(const Tensor& t, const void* data) { return {data, t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

Tensor doubling(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const std::optional<Tensor>& add,
                std::optional<int64_t> height, std::optional<int64_t> width, int64_t groups, bool channels_last) {
  Arguments a(x, weight, groups);
  a.check_result(x, bias, add, height, width);
  const UpsampleSizes sizes = sizes_of(a, x, weight, add.has_value());
  const Place place(x);
  const Tensor y = new_map(x, {a.n, a.o, a.yh, a.yw}, channels_last);
  if (y.numel() == 0) return y;
  const auto plan = plan_of(place, sizes, stored_as(x.scalar_type()), -1);
  const Tensor dense_weight = dense(weight);
  const std::optional<Tensor> dense_bias = dense(bias);
  UpsampleTensors tensors = {};
  tensors.x = map_of(x, x.const_data_ptr()), tensors.out = map_of(y, y.mutable_data_ptr());
  if (add) tensors.add = map_of(*add, add->const_data_ptr());
  tensors.weight = dense_weight.const_data_ptr(), tensors.bias = dense_bias ? dense_bias->const_data_ptr() : nullptr;
  check_launches(run_upsample(*plan, tensors, nullptr, place.stream()), "gcn_kernels::doubling");
  return y;
}

std::tuple<Tensor, Tensor, Tensor> doubling_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, int64_t wanted,
                                                     int64_t groups) {
  Arguments a(x, weight, groups);
  a.check_gradient(x, dy);
  check(wanted >= 0 && wanted < 1 << 3, "wanted: expected a mask of the three gradients, 0 ... 7, got ", wanted);
  const UpsampleSizes sizes = sizes_of(a, x, weight, false);
  const Place place(x);
  Gradients found(x, weight, a.o, wanted);
  if (wanted == 0) return {found.x, found.weight, found.bias};
  if (x.numel() == 0 || dy.numel() == 0) {  // sums of nothing
    for (Tensor* t : {&found.x, &found.weight, &found.bias}) torch::stable::zero_(*t);
    return {found.x, found.weight, found.bias};
  }
  const auto plan = plan_of(place, sizes, stored_as(x.scalar_type()), wanted);
  const Tensor workspace = new_workspace(x, plan->workspace_bytes), dense_weight = dense(weight);
  UpsampleTensors tensors = {};
  tensors.x = map_of(x, x.const_data_ptr()), tensors.dy = map_of(dy, dy.const_data_ptr());
  tensors.weight = dense_weight.const_data_ptr();
  DenseGradients written;
  if (wanted & 1) tensors.out = map_of(found.x, found.x.mutable_data_ptr());
  if (wanted & 2) tensors.dweight = written.of(found.weight);
  if (wanted & 4) tensors.dbias = found.bias.mutable_data_ptr();
  check_launches(run_upsample(*plan, tensors, workspace.mutable_data_ptr(), place.stream()), "gcn_kernels::doubling_backward");
  written.finish();
  return {found.x, found.weight, found.bias};
}

// As graphs saved before `doubling` call them.
Tensor whole_upsample(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, bool channels_last) {
  check(weight.dim() == 4 && weight.size(2) == 4, "weight: expected [C, O, 4, 4]");
  return doubling(x, weight, bias, std::nullopt, std::nullopt, std::nullopt, 1, channels_last);
}

std::tuple<Tensor, Tensor, Tensor> whole_upsample_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                                                           int64_t wanted) {
  return doubling_backward(dy, x, weight, wanted, 1);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CUDA, m) {
  m.impl("doubling", TORCH_BOX(&doubling));
  m.impl("doubling_backward", TORCH_BOX(&doubling_backward));
  m.impl("upsample", TORCH_BOX(&whole_upsample));
  m.impl("upsample_backward", TORCH_BOX(&whole_upsample_backward));
}

}  // namespace gcn::cuda
