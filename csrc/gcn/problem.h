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

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "../dtype.h"

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

// Limits that keep every product of sizes that any device computes within 64 bits, with room for the padding of tiles and the
// bytes of an element. They are far beyond what fits a machine: 2^60 multiply-adds take a CPU core a year.
constexpr double kMostElements = 0x1p48, kMostMultiplyAdds = 0x1p60;

// What has to hold of the sizes before anything is divided by them or multiplied with them.
inline void check_sizes(const Problem& p) {
  check(p.n >= 0 && p.c >= 1 && p.h >= 1 && p.w >= 1 && p.m_l >= 1 && p.m_r >= 1 && p.o >= 1,
        "expected sizes of at least 1 (only the batch may be empty), got N ", p.n, ", C ", p.c, ", H ", p.h, ", W ", p.w,
        ", M_l ", p.m_l, ", M_r ", p.m_r, ", O ", p.o);
  for (const int64_t k : {p.k1, p.k2, p.k3, p.k4}) check(k >= 1 && k % 2 == 1, "expected odd kernel sizes, got ", k);
  const auto real = [](int64_t size) { return static_cast<double>(size); };
  const double images = real(std::max<int64_t>(p.n, 1)), pixels = images * real(p.h) * real(p.w), c = real(p.c), o = real(p.o);
  const double left = real(p.m_l) * (c * real(p.k1) + o * real(p.k2)), right = real(p.m_r) * (c * real(p.k3) + o * real(p.k4));
  const double channels = c + o + real(p.m_l) + real(p.m_r);
  check(
      pixels * channels <= kMostElements && channels * channels <= kMostElements && pixels * (left + right) <= kMostMultiplyAdds,
      "sizes: expected maps of at most 2^48 elements and at most 2^60 multiply-adds, got N ", p.n, ", C ", p.c, ", H ", p.h,
      ", W ", p.w, ", M_l ", p.m_l, ", M_r ", p.m_r, ", O ", p.o, " and kernels of ", p.k1, ", ", p.k2, ", ", p.k3, ", ", p.k4);
}

// Of the sizes alone, as plans are asked for.
inline Problem problem_of(const std::vector<int64_t>& s, ScalarType dtype) {
  check(s.size() == 11, "sizes: expected n, c, h, w, m_l, m_r, o, k1, k2, k3, k4, got ", s.size(), " numbers");
  const Problem p{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], dtype};
  check_sizes(p);
  return p;
}

inline void check_like(const char* name, const Tensor& t, const Tensor& x) {
  check(t.scalar_type() == x.scalar_type() && t.device() == x.device(), name, ": expected the dtype and device of x");
}

inline void check_weight(const char* name, const Tensor& w, const Tensor& x, int64_t in, int kernel_dim) {
  check(w.dim() == 4 && w.size(1) == in && w.size(5 - kernel_dim) == 1 && w.size(kernel_dim) % 2 == 1, name, ": expected [out, ",
        in, kernel_dim == 2 ? ", odd k, 1]" : ", 1, odd k]");
  check_like(name, w, x);
}

inline void check_bias(const char* name, const std::optional<Tensor>& b, const Tensor& x, int64_t size) {
  if (!b) return;
  check(b->dim() == 1 && b->size(0) == size, name, ": expected [", size, ']');
  check_like(name, *b, x);
}

inline Problem make_problem(const Tensor& x, const Weights& w) {
  check(x.dim() == 4, "x: expected [N, C, H, W], got ", x.dim(), " dimensions");
  const ScalarType dtype = x.scalar_type();
  check_dtype(dtype);
  const int64_t c = x.size(1);
  check_weight("w_l1", w.l1, x, c, 2);
  check_weight("w_r1", w.r1, x, c, 3);
  check_weight("w_l2", w.l2, x, w.l1.size(0), 3);
  check_weight("w_r2", w.r2, x, w.r1.size(0), 2);
  check(w.l2.size(0) == w.r2.size(0), "w_l2 and w_r2: expected equal output channels, got ", w.l2.size(0), " and ", w.r2.size(0));
  const Problem p{x.size(0),    c,
                  x.size(2),    x.size(3),
                  w.l1.size(0), w.r1.size(0),
                  w.l2.size(0), w.l1.size(2),
                  w.l2.size(3), w.r1.size(3),
                  w.r2.size(2), dtype};
  check_sizes(p);
  return p;
}

// What gcn_backward is given besides the block: dy, and the biases that the middle maps were made with.
inline void check_backward(const Problem& p, const Tensor& dy, const Tensor& x, const std::optional<Tensor>& b_l1,
                           const std::optional<Tensor>& b_r1, int64_t wanted) {
  check(dy.dim() == 4 && dy.size(0) == p.n && dy.size(1) == p.o && dy.size(2) == p.h && dy.size(3) == p.w, "dy: expected [", p.n,
        ", ", p.o, ", ", p.h, ", ", p.w, ']');
  check_like("dy", dy, x);
  check_bias("b_l1", b_l1, x, p.m_l);
  check_bias("b_r1", b_r1, x, p.m_r);
  check(wanted >= 0 && wanted < 1 << 9, "wanted: expected a mask of the nine gradients, 0 ... 511, got ", wanted);
}

// A middle map as the forward pass of the same device returned it: dense, with these sizes.
inline void check_middle(const char* name, const Tensor& u, const std::array<int64_t, 4>& sizes, ScalarType dtype,
                         const Tensor& x) {
  bool same = u.dim() == 4 && u.scalar_type() == dtype && u.device() == x.device();
  for (int d = 0; same && d < 4; ++d) same = u.size(d) == sizes[d];
  check(same && u.is_contiguous(), name, ": expected the middle map that gcn returned for this x and these weights");
}

}  // namespace gcn
