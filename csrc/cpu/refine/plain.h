// Boundary refinement in plain loops over dense copies: for float64, and for compilers without vector types.
#pragma once

#include <vector>

#include "../dense.h"
#include "../parallel.h"

namespace gcn::cpu {
namespace refine {

// The dense planes [n][c] of a map of size h x w.
struct Planes {
  int64_t n, c, h, w;
  int64_t plane() const { return h * w; }
};

// f(row, offset of the other row, begin, end): pairs of rows that a tap at (d, e) - 1 from its output brings together, and the
// columns of the output for which it is inside.
template <class F>
void for_each_row(const Planes& p, int d, int e, const F& f) {
  const int64_t begin = e == 0 ? 1 : 0, end = e == 2 ? p.w - 1 : p.w;
  for (int64_t i = d == 0 ? 1 : 0; i < (d == 2 ? p.h - 1 : p.h); ++i) f(i * p.w, (i + d - 1) * p.w + e - 1, begin, end);
}

// to[n][o] = bias[o] + sum over c of from[n][c] * w[o][c][3][3]
template <class A>
std::vector<A> conv_plain(const Planes& p, const std::vector<A>& from, const std::vector<A>& w, const std::vector<A>& bias,
                          int64_t outputs) {
  std::vector<A> to(static_cast<size_t>(p.n * outputs * p.plane()));
  for_each_unit(p.n * outputs, [&](int64_t unit) {
    const int64_t n = unit / outputs, o = unit % outputs;
    A* out = to.data() + unit * p.plane();
    if (!bias.empty()) std::fill(out, out + p.plane(), bias[o]);
    for (int64_t c = 0; c < p.c; ++c) {
      const A *in = from.data() + (n * p.c + c) * p.plane(), *taps = w.data() + (o * p.c + c) * 9;
      for (int tap = 0; tap < 9; ++tap) {
        for_each_row(p, tap / 3, tap % 3, [&](int64_t row, int64_t other, int64_t begin, int64_t end) {
          for (int64_t j = begin; j < end; ++j) out[row + j] += taps[tap] * in[other + j];
        });
      }
    }
  });
  return to;
}

// dw[o][c][3][3] = sum over n and pixels of dout[n][o] in[n][c], shifted by the tap
template <class A>
std::vector<A> weight_gradient_plain(const Planes& p, const std::vector<A>& in, const std::vector<A>& dout, int64_t outputs) {
  std::vector<A> dw(static_cast<size_t>(outputs * p.c * 9));
  for_each_unit(outputs * p.c, [&](int64_t unit) {
    const int64_t o = unit / p.c, c = unit % p.c;
    for (int tap = 0; tap < 9; ++tap) {
      double sum = 0;
      for (int64_t n = 0; n < p.n; ++n) {
        const A *g = dout.data() + (n * outputs + o) * p.plane(), *x = in.data() + (n * p.c + c) * p.plane();
        for_each_row(p, tap / 3, tap % 3, [&](int64_t row, int64_t other, int64_t begin, int64_t end) {
          double part = 0;
          for (int64_t j = begin; j < end; ++j) part += static_cast<double>(g[row + j]) * x[other + j];
          sum += part;
        });
      }
      dw[unit * 9 + tap] = static_cast<A>(sum);
    }
  });
  return dw;
}

// [c] sums of the planes
template <class A>
std::vector<A> sums_plain(const Planes& p, const std::vector<A>& of, int64_t channels) {
  std::vector<A> sums(static_cast<size_t>(channels));
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0;
    for (int64_t n = 0; n < p.n; ++n) {
      for (int64_t i = 0; i < p.h; ++i) {
        double part = 0;
        for (int64_t j = 0; j < p.w; ++j) part += of[(n * channels + c) * p.plane() + i * p.w + j];
        sum += part;
      }
    }
    sums[c] = static_cast<A>(sum);
  }
  return sums;
}

}  // namespace refine
}  // namespace gcn::cpu
