// The operators gcn_kernels::gcn and gcn_kernels::gcn_backward on a GPU: allocate results and workspace, plan, launch.
// Only the file of this name of each operator and place.h know PyTorch.
//
// Everything is launched on PyTorch's current stream and every byte comes from its allocator; nothing here waits for the GPU or
// reads from it. So a call can be captured in a CUDA graph, and memory that is let go of at its end is not reused before the
// kernels have run.
//
// On a small map a call takes as long as the host needs for it: a plan is made once for each problem, and tensors are made by
// direct calls (new_tensor.h).
//
// u_l and u_r are padded maps [N, H, W, M rounded up to 8] in x's type: what kernels.h says of maps that kernels hand on.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../../gcn/problem.h"
#include "../place.h"
#include "../plan_cache.h"
#include "../tensors.h"
#include "execute.h"

namespace gcn::cuda {
namespace {

Math math_of(ScalarType dtype, bool allow_tf32) {
  switch (dtype) {
    case ScalarType::Half:
      return Math::kHalf;
    case ScalarType::BFloat16:
      return Math::kBFloat16;
    case ScalarType::Float:
      return allow_tf32 ? Math::kTf32 : Math::kFloat;
    case ScalarType::Double:
      return Math::kDouble;
    default:
      throw std::runtime_error("x: expected float32, float64, bfloat16 or float16");
  }
}

Sizes sizes_of(const Problem& p) {
  const Sizes s{p.n, p.c, p.h, p.w, p.m_l, p.m_r, p.o, p.k1, p.k2, p.k3, p.k4};
  for (const int64_t size : {s.n, s.c, s.h, s.w, s.m_l, s.m_r, s.o, s.k1, s.k2, s.k3, s.k4}) {
    check(size <= std::numeric_limits<int>::max(), "expected sizes below 2^31, got ", size);
  }
  return s;
}

PlanKey key_of(const Sizes& s) { return PlanKey().add({s.n, s.c, s.h, s.w, s.m_l, s.m_r, s.o, s.k1, s.k2, s.k3, s.k4}); }

bool is_aligned(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % kPieceBytes == 0; }

MapLayout layout_of(const Tensor& map) { return {strides_of(map), is_aligned(map)}; }

Tensor new_middle(const Tensor& x, const Problem& p, int64_t mid) { return new_dense(x, {p.n, p.h, p.w, padded(mid)}); }

// Their taps are along dimension 2 in k x 1 convolutions, along dimension 3 in 1 x k ones.
StridedWeights weights_of(const Tensor& w, int taps) { return {w.const_data_ptr(), w.stride(0), w.stride(1), w.stride(taps)}; }

const void* data_or_null(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

void check_algorithm(const std::string& algo) {
  check(algo == "auto", "algo: expected auto, because the algorithms to choose from are the CPU's; got ", algo);
}

std::tuple<Tensor, Tensor, Tensor> gcn(const Tensor& x, const Tensor& w_l1, const Tensor& w_l2, const Tensor& w_r1,
                                       const Tensor& w_r2, const std::optional<Tensor>& b_l1, const std::optional<Tensor>& b_l2,
                                       const std::optional<Tensor>& b_r1, const std::optional<Tensor>& b_r2, bool channels_last,
                                       bool /*cache_weights*/, bool allow_tf32, const std::string& algo) {
  const Problem p = make_problem(x, {w_l1, w_l2, w_r1, w_r2});
  check_bias("b_l1", b_l1, x, p.m_l);
  check_bias("b_l2", b_l2, x, p.o);
  check_bias("b_r1", b_r1, x, p.m_r);
  check_bias("b_r2", b_r2, x, p.o);
  check_algorithm(algo);
  const Math math = math_of(p.dtype, allow_tf32);
  const Sizes sizes = sizes_of(p);
  const Place place(x);

  const Tensor y = new_map(x, {p.n, p.o, p.h, p.w}, channels_last);
  const Tensor u_l = new_middle(x, p, p.m_l), u_r = new_middle(x, p, p.m_r);
  if (p.n == 0) return {y, u_l, u_r};

  const MapLayout x_layout = layout_of(x), y_layout = layout_of(y);
  const bool whole_weights =
      in_whole_pieces(weights_of(w_l1, 2), p.m_l, p.k1, math) && in_whole_pieces(weights_of(w_r1, 3), p.m_r, p.k3, math);
  static PlanCache<ForwardPlan> plans;
  const PlanKey key =
      key_of(sizes).add({int64_t(math), place.device(), place.asked(), whole_weights}).add(x_layout).add(y_layout);
  const std::shared_ptr<const ForwardPlan> plan = plans.get(
      key, [&] { return plan_forward(sizes, math, x_layout, y_layout.strides, y_layout.aligned, whole_weights, place.gpu()); });
  const Tensor workspace = new_workspace(x, plan->workspace_bytes);
  const std::optional<Tensor> bias_l1 = dense(b_l1), bias_l2 = dense(b_l2), bias_r1 = dense(b_r1), bias_r2 = dense(b_r2);
  ForwardTensors t = {};
  t.x = x.const_data_ptr();
  t.w_l1 = weights_of(w_l1, 2), t.w_l2 = weights_of(w_l2, 3);
  t.w_r1 = weights_of(w_r1, 3), t.w_r2 = weights_of(w_r2, 2);
  t.b_l1 = data_or_null(bias_l1), t.b_l2 = data_or_null(bias_l2);
  t.b_r1 = data_or_null(bias_r1), t.b_r2 = data_or_null(bias_r2);
  t.y = y.mutable_data_ptr(), t.u_l = u_l.mutable_data_ptr(), t.u_r = u_r.mutable_data_ptr();
  check_launches(run_forward(*plan, t, workspace.mutable_data_ptr(), place.stream()), "gcn_kernels::gcn");
  return {y, u_l, u_r};
}

// The gradients in the order of the operator's results, which is that of the bits of `wanted`.
enum Gradient { kX, kWl1, kWl2, kWr1, kWr2, kBl1, kBl2, kBr1, kBr2, kGradients };

// Gradients of x and the weights have the strides that empty_like gives them.
class Gradients {
 public:
  Gradients(const Tensor& x, const Weights& w, const Problem& p, int64_t wanted) : wanted_(wanted) {
    const Tensor like[] = {x, w.l1, w.l2, w.r1, w.r2};
    const int64_t bias_sizes[] = {p.m_l, p.o, p.m_r, p.o};
    results_.reserve(kGradients);
    for (int i = 0; i < kGradients; ++i) {
      if (!is_wanted(i)) {
        results_.push_back(new_dense(x, {0}));
      } else if (i < kBl1) {
        results_.push_back(new_like(like[i]));
      } else {
        results_.push_back(new_dense(x, {bias_sizes[i - kBl1]}));
      }
    }
  }

  bool is_wanted(int i) const { return wanted_ >> i & 1; }
  Wanted wanted() const {
    const auto is = [this](Gradient g) { return is_wanted(g); };
    return {is(kX), is(kWl1), is(kWl2), is(kWr1), is(kWr2), is(kBl1), is(kBl2), is(kBr1), is(kBr2)};
  }
  const Tensor& x() const { return results_[kX]; }
  void* data(Gradient g) const { return is_wanted(g) ? results_[g].mutable_data_ptr() : nullptr; }
  StridedWeightGrad weights(Gradient g, int taps) const {
    const Tensor& w = results_[g];
    return is_wanted(g) ? StridedWeightGrad{w.mutable_data_ptr(), w.stride(0), w.stride(1), w.stride(taps)} : StridedWeightGrad{};
  }

  void zero() {
    for (Tensor& result : results_) torch::stable::zero_(result);
  }
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> results() const {
    const auto& r = results_;
    return {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8]};
  }

 private:
  int64_t wanted_;
  std::vector<Tensor> results_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gcn_backward(
    const Tensor& dy, const Tensor& x, const Tensor& u_l, const Tensor& u_r, const Tensor& w_l1, const Tensor& w_l2,
    const Tensor& w_r1, const Tensor& w_r2, const std::optional<Tensor>& b_l1, const std::optional<Tensor>& b_r1, int64_t wanted,
    bool allow_tf32, const std::string& algo) {
  const Weights given{w_l1, w_l2, w_r1, w_r2};
  const Problem p = make_problem(x, given);
  check_middle("u_l", u_l, {p.n, p.h, p.w, padded(p.m_l)}, p.dtype, x);
  check_middle("u_r", u_r, {p.n, p.h, p.w, padded(p.m_r)}, p.dtype, x);
  check_backward(p, dy, x, b_l1, b_r1, wanted);
  check_algorithm(algo);
  const Math math = math_of(p.dtype, allow_tf32);
  const Sizes sizes = sizes_of(p);
  const Place place(x);

  Gradients gradients(x, given, p, wanted);
  if (p.n == 0) {  // sums of nothing
    gradients.zero();
    return gradients.results();
  }
  const Strides dx = gradients.is_wanted(kX) ? strides_of(gradients.x()) : Strides{};
  const MapLayout x_layout = layout_of(x);
  const Strides dy_strides = strides_of(dy);
  static PlanCache<BackwardPlan> plans;
  const PlanKey key =
      key_of(sizes).add({int64_t(math), place.device(), place.asked(), wanted}).add(x_layout).add(dy_strides).add(dx);
  const std::shared_ptr<const BackwardPlan> plan =
      plans.get(key, [&] { return plan_backward(sizes, math, x_layout, dy_strides, dx, gradients.wanted(), place.gpu()); });
  const Tensor workspace = new_workspace(x, plan->workspace_bytes);
  BackwardTensors t = {};
  t.dy = dy.const_data_ptr(), t.x = x.const_data_ptr();
  t.u_l = u_l.const_data_ptr(), t.u_r = u_r.const_data_ptr();
  t.w_l1 = weights_of(w_l1, 2), t.w_l2 = weights_of(w_l2, 3);
  t.w_r1 = weights_of(w_r1, 3), t.w_r2 = weights_of(w_r2, 2);
  t.dx = gradients.data(kX);
  t.dw_l1 = gradients.weights(kWl1, 2), t.dw_l2 = gradients.weights(kWl2, 3);
  t.dw_r1 = gradients.weights(kWr1, 3), t.dw_r2 = gradients.weights(kWr2, 2);
  t.db_l1 = gradients.data(kBl1), t.db_l2 = gradients.data(kBl2);
  t.db_r1 = gradients.data(kBr1), t.db_r2 = gradients.data(kBr2);
  check_launches(run_backward(*plan, t, workspace.mutable_data_ptr(), place.stream()), "gcn_kernels::gcn_backward");
  return gradients.results();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CUDA, m) {
  m.impl("gcn", TORCH_BOX(&gcn));
  m.impl("gcn_backward", TORCH_BOX(&gcn_backward));
}

}  // namespace gcn::cuda
