// One call of the operator on the CPU, and the algorithms that can carry it out.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <vector>

#include "../../gcn/problem.h"
#include "../../new_tensor.h"
#include "../fft/engine.h"
#include "../map.h"

namespace gcn::cpu {

using torch::stable::Tensor;

struct Biases {
  std::optional<Tensor> l1, l2, r1, r2;
};

struct Forward {
  const Problem& problem;
  const Tensor& x;
  const Weights& w;
  const Biases& b;
  // Results: y in its own layout and dtype; u_l, u_r contiguous [N, M, H, W] of the accumulation type.
  Tensor y, u_l, u_r;
  // Whether the weights are likely to be the same in the next call.
  bool cache_weights;
};

// The gradients in the order of the operator's results.
enum Gradient { kX, kWl1, kWl2, kWr1, kWr2, kBl1, kBl2, kBr1, kBr2, kGradients };

class Wanted {
 public:
  explicit Wanted(int64_t bits) : bits_(bits) {}
  bool operator()(Gradient g) const { return bits_ >> g & 1; }
  template <class... G>
  bool any(G... g) const {
    return (... || (*this)(g));
  }

 private:
  int64_t bits_;
};

struct Backward {
  const Problem& problem;
  const Tensor &dy, &x, &u_l, &u_r;
  const Weights& w;
  Wanted wanted;
  std::vector<Tensor> grads;  // results; empty tensors where not wanted
};

void forward_direct(const Forward& call);
void backward_direct(const Backward& call);

// One plan of the engine for each of the block's convolutions.
struct LinePlans {
  fft::Plan l1, l2, r1, r2;

  bool possible() const { return l1.possible && l2.possible && r1.possible && r2.possible; }
  double nanoseconds() const { return l1.nanoseconds + l2.nanoseconds + r1.nanoseconds + r2.nanoseconds; }
};
struct BackwardPlans {
  LinePlans input, weight;  // gradients

  bool possible() const { return input.possible() && weight.possible(); }
};
// Impossible plans where the engine cannot do the problem: float64, an empty batch, or no transform that is long enough.
LinePlans plan_forward(const Problem& problem);
BackwardPlans plan_backward(const Problem& problem);
void forward_fft(const Forward& call, const LinePlans& plans);
void backward_fft(const Backward& call, const BackwardPlans& plans);

template <class A>
A* data_of(const Tensor& t) {
  return static_cast<A*>(t.mutable_data_ptr());
}

// A weight [out, in, k, 1] or [out, in, 1, k] is a Map with n = out, c = in and its kernel along h or w.
struct Kernel {
  Map map;
  int64_t k, stride_k;

  explicit Kernel(const Map& m) : map(m), k(m.h * m.w), stride_k(m.h > 1 ? m.sh : m.sw) {}
};

// A vector in the accumulation type; empty where there is none.
template <class A>
std::vector<A> vector_of(const std::optional<Tensor>& t) {
  if (!t) return {};
  std::vector<A> v(static_cast<size_t>(t->numel()));
  with_storage_type(t->scalar_type(), [&](auto storage) {
    convert(static_cast<const decltype(storage)*>(t->const_data_ptr()), t->stride(0), v.data(), 1, t->numel());
  });
  return v;
}
template <class A>
const A* pointer_or_null(const std::vector<A>& v) {
  return v.empty() ? nullptr : v.data();
}

// b_l2 + b_r2; empty where there is neither.
template <class A>
std::vector<A> output_bias(const Biases& b) {
  std::vector<A> sum = vector_of<A>(b.l2);
  const std::vector<A> right = vector_of<A>(b.r2);
  if (sum.empty()) return right;
  for (size_t i = 0; i < right.size(); ++i) sum[i] += right[i];
  return sum;
}

}  // namespace gcn::cpu
