// What the operators of boundary refinement are given, checked: for every device.
//
// Users meet the checks of gcn_kernels/refine/functional.py, which explain themselves; the ones here only keep a direct call of
// the registered operators from reading out of bounds.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "../dtype.h"
#include "../new_tensor.h"

namespace gcn::refine {

using torch::stable::Tensor;

inline void check_like(const char* name, const Tensor& t, const Tensor& x) {
  check(t.scalar_type() == x.scalar_type() && t.device() == x.device(), name, ": expected the dtype and device of x");
}

inline void check_weight(const char* name, const Tensor& w, const Tensor& x, int64_t outputs, int64_t inputs) {
  check(w.dim() == 4 && w.size(0) == outputs && w.size(1) == inputs && w.size(2) == 3 && w.size(3) == 3, name, ": expected [",
        outputs, ", ", inputs, ", 3, 3]");
  check_like(name, w, x);
}

inline void check_bias(const char* name, const std::optional<Tensor>& b, int64_t length, const Tensor& x) {
  if (!b) return;
  check(b->dim() == 1 && b->size(0) == length, name, ": expected [", length, "]");
  check_like(name, *b, x);
}

inline void check_maps(const Tensor& x, const Tensor& w1, const Tensor& w2, const std::optional<Tensor>& b1) {
  check(x.dim() == 4, "x: expected [N, C, H, W], got ", x.dim(), " dimensions");
  check_dtype(x.scalar_type());
  check(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, "x: expected C, H and W of at least 1");
  check(w1.dim() == 4 && w1.size(0) > 0, "w1: expected [M, C, 3, 3] with M of at least 1");
  check_weight("w1", w1, x, w1.size(0), x.size(1));
  check_weight("w2", w2, x, x.size(1), w1.size(0));
  check_bias("b1", b1, w1.size(0), x);
}

// The gradients of x, w1, w2, b1 and b2; bit i of `wanted` asks for the i-th, the others are empty.
struct Gradients {
  Tensor x, w1, w2, b1, b2;

  Gradients(const Tensor& dy, const Tensor& x, const Tensor& w1, const Tensor& w2, int64_t wanted)
      : x(like(x, wanted & 1)),
        w1(like(w1, wanted & 2)),
        w2(like(w2, wanted & 4)),
        b1(vector(x, wanted & 8 ? w1.size(0) : 0)),
        b2(vector(x, wanted & 16 ? x.size(1) : 0)) {
    check(
        dy.dim() == 4 && dy.size(0) == x.size(0) && dy.size(1) == x.size(1) && dy.size(2) == x.size(2) && dy.size(3) == x.size(3),
        "dy: expected the shape of x");
    check_like("dy", dy, x);
  }
  // Sums of nothing.
  void zero() {
    for (Tensor* t : {&w1, &w2, &b1, &b2}) torch::stable::zero_(*t);
  }
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> results() const { return {x, w1, w2, b1, b2}; }

 private:
  static Tensor vector(const Tensor& x, int64_t length) { return new_dense(x, {length}); }
  static Tensor like(const Tensor& t, bool is_wanted) { return is_wanted ? new_like(t) : vector(t, 0); }
};

}  // namespace gcn::refine
