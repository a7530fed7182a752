// The sizes of one GCN block, read from its tensors: the one place where host code of every device looks them up.
//
//   u_l = conv(x, w_l1) + b_l1    [N, M_l, H, W]      k1 x 1
//   u_r = conv(x, w_r1) + b_r1    [N, M_r, H, W]      1 x k3
//   y   = conv(u_l, w_l2) + b_l2 + conv(u_r, w_r2) + b_r2    [N, O, H, W]      1 x k2 and k4 x 1
//
// Users meet the checks of gcn_kernels/gcn/problem.py, which explain themselves; the ones here only keep a direct call of the
// registered operators from reading out of bounds.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <cstdint>
#include <optional>

namespace gcn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Weights {
  Tensor l1, l2, r1, r2;
};

struct Problem {
  int64_t n, c, h, w;  // the map
  int64_t m_l, m_r;    // middle channels of the branches
  int64_t o;           // output channels
  int64_t k1, k2;      // left: k1 x 1, then 1 x k2
  int64_t k3, k4;      // right: 1 x k3, then k4 x 1
  ScalarType dtype;

  int64_t pixels() const { return n * h * w; }
  // The type the arithmetic is done in, and the middle maps are kept in.
  ScalarType accumulate() const { return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }
};

inline void check_weight(const char* name, const Tensor& w, const Tensor& x, int64_t in, int kernel_dim) {
  STD_TORCH_CHECK(w.dim() == 4 && w.size(1) == in && w.size(5 - kernel_dim) == 1 && w.size(kernel_dim) % 2 == 1, name,
                  ": expected [out, ", in, kernel_dim == 2 ? ", odd k, 1]" : ", 1, odd k]");
  STD_TORCH_CHECK(w.scalar_type() == x.scalar_type() && w.device() == x.device(), name, ": expected the dtype and device of x");
}

inline void check_bias(const char* name, const std::optional<Tensor>& b, const Tensor& x, int64_t size) {
  STD_TORCH_CHECK(!b || (b->dim() == 1 && b->size(0) == size && b->scalar_type() == x.scalar_type() && b->device() == x.device()),
                  name, ": expected [", size, "] with the dtype and device of x");
}

inline Problem make_problem(const Tensor& x, const Weights& w) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected [N, C, H, W], got ", x.dim(), " dimensions");
  const int64_t c = x.size(1);
  check_weight("w_l1", w.l1, x, c, 2);
  check_weight("w_r1", w.r1, x, c, 3);
  check_weight("w_l2", w.l2, x, w.l1.size(0), 3);
  check_weight("w_r2", w.r2, x, w.r1.size(0), 2);
  STD_TORCH_CHECK(w.l2.size(0) == w.r2.size(0), "w_l2 and w_r2: expected equal output channels, got ", w.l2.size(0), " and ",
                  w.r2.size(0));
  Problem p;
  p.n = x.size(0), p.c = c, p.h = x.size(2), p.w = x.size(3);
  p.m_l = w.l1.size(0), p.m_r = w.r1.size(0), p.o = w.l2.size(0);
  p.k1 = w.l1.size(2), p.k2 = w.l2.size(3), p.k3 = w.r1.size(3), p.k4 = w.r2.size(2);
  p.dtype = x.scalar_type();
  return p;
}

}  // namespace gcn
