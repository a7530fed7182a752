// The operators gcn_kernels::gcn and gcn_kernels::gcn_backward on the CPU: allocate the results, choose the algorithm.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "choice.h"
#include "gcn.h"

namespace gcn::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor> gcn(const Tensor& x, const Tensor& w_l1, const Tensor& w_l2, const Tensor& w_r1,
                                       const Tensor& w_r2, const std::optional<Tensor>& b_l1, const std::optional<Tensor>& b_l2,
                                       const std::optional<Tensor>& b_r1, const std::optional<Tensor>& b_r2, bool channels_last,
                                       bool cache_weights, bool /*allow_tf32*/, const std::string& algo) {
  const Weights w{w_l1, w_l2, w_r1, w_r2};
  const Biases b{b_l1, b_l2, b_r1, b_r2};
  const Problem p = make_problem(x, w);
  check_bias("b_l1", b.l1, x, p.m_l);
  check_bias("b_l2", b.l2, x, p.o);
  check_bias("b_r1", b.r1, x, p.m_r);
  check_bias("b_r2", b.r2, x, p.o);
  check_algorithm(algo);
  const Tensor y = new_map(x, {p.n, p.o, p.h, p.w}, channels_last);
  const Tensor u_l = new_dense(x, {p.n, p.m_l, p.h, p.w}, p.accumulate());
  const Tensor u_r = new_dense(x, {p.n, p.m_r, p.h, p.w}, p.accumulate());
  const Forward call{p, x, w, b, y, u_l, u_r, cache_weights};
  const ForwardChoice& choice = choose_forward(p, cache_weights);
  if (p.n > 0 && use_fft(algo, choice.prediction)) {
    forward_fft(call, choice.plans);
  } else {
    forward_direct(call);
  }
  return {y, u_l, u_r};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gcn_backward(
    const Tensor& dy, const Tensor& x, const Tensor& u_l, const Tensor& u_r, const Tensor& w_l1, const Tensor& w_l2,
    const Tensor& w_r1, const Tensor& w_r2, const std::optional<Tensor>& b_l1, const std::optional<Tensor>& b_r1, int64_t wanted,
    bool /*allow_tf32*/, const std::string& algo) {
  const Weights w{w_l1, w_l2, w_r1, w_r2};
  const Problem p = make_problem(x, w);
  check_middle("u_l", u_l, {p.n, p.m_l, p.h, p.w}, p.accumulate(), x);
  check_middle("u_r", u_r, {p.n, p.m_r, p.h, p.w}, p.accumulate(), x);
  check_backward(p, dy, x, b_l1, b_r1, wanted);
  check_algorithm(algo);
  const Tensor like[] = {x, w_l1, w_l2, w_r1, w_r2};
  const int64_t bias_sizes[] = {p.m_l, p.o, p.m_r, p.o};
  std::vector<Tensor> grads;
  const Wanted is_wanted(wanted);
  for (int i = 0; i < kGradients; ++i) {
    if (!is_wanted(static_cast<Gradient>(i))) {
      grads.push_back(new_dense(x, {0}, p.dtype));
    } else if (i < kBl1) {
      grads.push_back(new_like(like[i]));
    } else {
      grads.push_back(new_dense(x, {bias_sizes[i - kBl1]}, p.dtype));
    }
  }
  const Backward call{p, dy, x, u_l, u_r, w, is_wanted, grads};
  const BackwardChoice& choice = choose_backward(p);
  if (p.n > 0 && use_fft(algo, choice.prediction)) {
    backward_fft(call, choice.plans);
  } else {
    backward_direct(call);
  }
  return {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6], grads[7], grads[8]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CPU, m) {
  m.impl("gcn", TORCH_BOX(&gcn));
  m.impl("gcn_backward", TORCH_BOX(&gcn_backward));
}

}  // namespace gcn::cpu
