// What the operators of the doubling are given, checked: for every device.
//
// Users meet the checks of gcn_kernels/upsample/functional.py, which explain themselves; the ones here only keep a direct call of
// the registered operators from reading out of bounds.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "../dtype.h"
#include "../new_tensor.h"

namespace gcn::upsample {

using torch::stable::Tensor;

inline void check_like(const char* name, const Tensor& t, const Tensor& x) {
  check(t.scalar_type() == x.scalar_type() && t.device() == x.device(), name, ": expected the dtype and device of x");
}

// x [n, c, h, w], y [n, o, yh, yw], a kernel k x k; by_itself: each channel.
struct Arguments {
  int64_t n, c, o, h, w, yh, yw, k;
  bool by_itself;

  Arguments(const Tensor& x, const Tensor& weight, int64_t groups) {
    check(x.dim() == 4, "x: expected [N, C, H, W], got ", x.dim(), " dimensions");
    check_dtype(x.scalar_type());
    check(groups == 1 || groups == x.size(1), "groups: expected 1 or the channels C = ", x.size(1), " of x, got ", groups);
    by_itself = groups > 1;
    check(weight.dim() == 4 && weight.size(0) == x.size(1) && weight.size(2) >= 2 && weight.size(2) <= 4 &&
              weight.size(3) == weight.size(2) && (!by_itself || weight.size(1) == 1),
          "weight: expected [C, ", by_itself ? "1" : "O", ", k, k] with the channels C = ", x.size(1),
          " of x and k of 2, 3 or 4");
    check_like("weight", weight, x);
    n = x.size(0), c = x.size(1), o = by_itself ? c : weight.size(1), h = x.size(2), w = x.size(3);
    yh = 2 * h, yw = 2 * w, k = weight.size(2);
  }

  // Of a forward pass.
  void check_result(const Tensor& x, const std::optional<Tensor>& bias, const std::optional<Tensor>& add,
                    std::optional<int64_t> height, std::optional<int64_t> width) {
    if (bias) {
      check(bias->dim() == 1 && bias->size(0) == o, "bias: expected [", o, "]");
      check_like("bias", *bias, x);
    }
    keep("height, width", height.value_or(yh), width.value_or(yw));
    if (!add) return;
    check(add->dim() == 4 && add->size(0) == n && add->size(1) == o, "add: expected [", n, ", ", o, ", H', W']");
    check_like("add", *add, x);
    keep("add", add->size(2), add->size(3));
    check(height.value_or(yh) == yh && width.value_or(yw) == yw, "add: expected the size that is asked for");
  }
  // Of a backward pass.
  void check_gradient(const Tensor& x, const Tensor& dy) {
    check(dy.dim() == 4 && dy.size(0) == n && dy.size(1) == o, "dy: expected [", n, ", ", o, ", H', W']");
    check_like("dy", dy, x);
    keep("dy", dy.size(2), dy.size(3));
  }

 private:
  void keep(const char* name, int64_t height, int64_t width) {
    check(height >= 0 && height <= 2 * h && width >= 0 && width <= 2 * w, name, ": expected at most ", 2 * h, " x ", 2 * w,
          ", got ", height, " x ", width);
    yh = height, yw = width;
  }
};

// The gradients of x, weight and bias; bit i of `wanted` asks for the i-th, the others are empty.
struct Gradients {
  Tensor x, weight, bias;

  Gradients(const Tensor& x, const Tensor& weight, int64_t outputs, int64_t wanted)
      : x(like(x, wanted & 1)), weight(like(weight, wanted & 2)), bias(vector(x, wanted & 4 ? outputs : 0)) {}

 private:
  static Tensor vector(const Tensor& x, int64_t length) { return new_dense(x, {length}); }
  static Tensor like(const Tensor& t, bool is_wanted) { return is_wanted ? new_like(t) : vector(t, 0); }
};

}  // namespace gcn::upsample
