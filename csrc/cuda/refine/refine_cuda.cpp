// The operators gcn_kernels::cuda_refine and gcn_kernels::cuda_refine_backward: allocate results and workspace, plan, launch.
// What gcn_cuda.cpp says of streams, memory and graphs holds here too.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <memory>
#include <optional>
#include <tuple>

#include "../../refine/arguments.h"
#include "../place.h"
#include "../plan_cache.h"
#include "../tensors.h"
#include "refine_plan.h"

namespace gcn::cuda {
namespace {

using gcn::refine::check_bias, gcn::refine::check_maps, gcn::refine::Gradients;

// Checked for all that the kernels count in 32 bits.
RefineSizes sizes_of(const Tensor& x, const Tensor& w1, const Tensor& w2, const std::optional<Tensor>& b1) {
  check_maps(x, w1, w2, b1);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
  for (int64_t d = 0; d < 4; ++d) check(x.size(d) <= kMost, "x: expected sizes below 2^30, got ", x.size(d));
  check(w1.numel() <= kMost, "w1: expected fewer than 2^30 elements, got ", w1.numel());
  return {x.size(0), x.size(1), w1.size(0), x.size(2), x.size(3)};
}

Math math_of(const Tensor& x, bool allow_tf32) {
  const Math stored = stored_as(x.scalar_type());
  return stored == Math::kFloat && allow_tf32 ? Math::kTf32 : stored;
}

MapLayout layout_of(const StridedMap& map) {
  return {{map.stride_n, map.stride_c, map.stride_h, map.stride_w}, reinterpret_cast<uintptr_t>(map.data) % kPieceBytes == 0};
}

std::shared_ptr<const RefinePlan> plan_of_forward(const Place& place, const RefineSizes& s, Math math, const StridedMap& x,
                                                  const StridedMap& y) {
  static PlanCache<RefinePlan> plans;
  const MapLayout of_x = layout_of(x), of_y = layout_of(y);
  PlanKey key;
  key.add({place.device(), place.asked(), int64_t(math), s.n, s.c, s.m, s.h, s.w}).add(of_x).add(of_y);
  return plans.get(key, [&] { return plan_refine_forward(s, math, of_x, of_y, place.gpu()); });
}

std::shared_ptr<const RefinePlan> plan_of_backward(const Place& place, const RefineSizes& s, Math math, int64_t wanted) {
  static PlanCache<RefinePlan> plans;
  PlanKey key;
  key.add({place.device(), int64_t(math), s.n, s.c, s.m, s.h, s.w, wanted});
  return plans.get(key, [&] {
    const auto bit = [&](int i) { return (wanted >> i & 1) != 0; };
    return plan_refine_backward(s, math, {bit(0), bit(1), bit(2), bit(3), bit(4)}, place.gpu());
  });
}

StridedMap map_of(const Tensor& t, const void* data) { return {data, t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

// The parameters as the kernels read them, kept for as long as they are needed.
struct Parameters {
  Tensor w1, w2;
  std::optional<Tensor> b1, b2;

  Parameters(const Tensor& w1, const Tensor& w2, const std::optional<Tensor>& b1, const std::optional<Tensor>& b2)
      : w1(dense(w1)), w2(dense(w2)), b1(dense(b1)), b2(dense(b2)) {}
  void point(RefineTensors& t) const {
    t.w1 = w1.const_data_ptr(), t.w2 = w2.const_data_ptr();
    t.b1 = b1 ? b1->const_data_ptr() : nullptr, t.b2 = b2 ? b2->const_data_ptr() : nullptr;
  }
};

Tensor cuda_refine(const Tensor& x, const Tensor& w1, const Tensor& w2, const std::optional<Tensor>& b1,
                   const std::optional<Tensor>& b2, bool channels_last, bool allow_tf32) {
  const RefineSizes sizes = sizes_of(x, w1, w2, b1);
  check_bias("b2", b2, sizes.c, x);
  const Place place(x);
  const Tensor y = new_map(x, {sizes.n, sizes.c, sizes.h, sizes.w}, channels_last);
  if (sizes.n == 0) return y;
  RefineTensors tensors = {};
  tensors.x = map_of(x, x.const_data_ptr()), tensors.out = map_of(y, y.mutable_data_ptr());
  const auto plan = plan_of_forward(place, sizes, math_of(x, allow_tf32), tensors.x, tensors.out);
  const Tensor workspace = new_workspace(x, plan->workspace_bytes);
  const Parameters parameters(w1, w2, b1, b2);
  parameters.point(tensors);
  check_launches(run_refine(*plan, tensors, workspace.mutable_data_ptr(), place.stream()), "gcn_kernels::cuda_refine");
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> cuda_refine_backward(const Tensor& dy, const Tensor& x, const Tensor& w1,
                                                                        const Tensor& w2, const std::optional<Tensor>& b1,
                                                                        int64_t wanted, bool allow_tf32) {
  const RefineSizes sizes = sizes_of(x, w1, w2, b1);
  check(wanted >= 0 && wanted < 1 << 5, "wanted: expected a mask of the five gradients, 0 ... 31, got ", wanted);
  const Place place(x);
  Gradients found(dy, x, w1, w2, wanted);
  if (wanted == 0) return found.results();
  if (sizes.n == 0) {
    found.zero();
    return found.results();
  }
  const auto plan = plan_of_backward(place, sizes, math_of(x, allow_tf32), wanted);
  const Tensor workspace = new_workspace(x, plan->workspace_bytes);
  const Parameters parameters(w1, w2, b1, std::nullopt);
  RefineTensors tensors = {};
  tensors.x = map_of(x, x.const_data_ptr()), tensors.dy = map_of(dy, dy.const_data_ptr());
  if (wanted & 1) tensors.out = map_of(found.x, found.x.mutable_data_ptr());
  parameters.point(tensors);
  DenseGradients written;
  if (wanted & 2) tensors.dw1 = written.of(found.w1);
  if (wanted & 4) tensors.dw2 = written.of(found.w2);
  if (wanted & 8) tensors.db1 = found.b1.mutable_data_ptr();
  if (wanted & 16) tensors.db2 = found.b2.mutable_data_ptr();
  check_launches(run_refine(*plan, tensors, workspace.mutable_data_ptr(), place.stream()), "gcn_kernels::cuda_refine_backward");
  written.finish();
  return found.results();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CUDA, m) {
  m.impl("cuda_refine", TORCH_BOX(&cuda_refine));
  m.impl("cuda_refine_backward", TORCH_BOX(&cuda_refine_backward));
}

}  // namespace gcn::cuda
