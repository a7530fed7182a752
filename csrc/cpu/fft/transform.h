// Real FFT of kLanes independent lines at once: lane l of vector n is sample n of line l.
//
// Prime-factor algorithm, L = N1 * N2 with N1 in {8, 16, 32} and N2 in {1, 3, 5, 7, 9} without a common
// factor. With n = (N2 n1 + N1 n2) mod L the transform of length L is a two-dimensional one, N1 x N2, without
// twiddle factors:
//
//   pass 1   for each n2: real transform of N1 samples                     (radix 2, in registers)
//   pass 2   for k1 = 0 and N1/2: real transform of N2; other k1 < N1/2: complex transform of N2
//
// n -> (n1, n2) is a group isomorphism, so cyclic convolutions of length L are cyclic convolutions of N1 x
// N2, and their spectra may stay in whatever order falls out: both operands and the inverse use the same one.
//
// Spectrum of one line: `points` complex values and two real ones (k1 = 0 and N1/2, k2 = 0), L floats:
//   plane 2p, 2p + 1      real and imaginary part of point p < points
//   plane 2 points + e    the two real values
// Product of two spectra, by Gauss with three real products for each point (L + points planes). With the
// vector operand X = a + ib and the broadcast operand Y = c + id:
//   plane 3p: a (d - c)   3p + 1: b (c + d)   3p + 2: (a + b) c      re = [3p+2] - [3p+1], im = [3p+2] + [3p]
//   plane 3 points + e    the product of the real values
// Recombination is linear, so that sums over channels are made in these planes, and the inverse recombines
// once. The inverse is not normalised (factor L); broadcast operands carry 1 / L.
#pragma once

#include "simd.h"

namespace gcn::cpu {
namespace fft {
namespace GCN_FFT_ISA {

// Keeps the compiler from merging two passes over a buffer into one that needs more registers than there are.
GCN_INLINE void pass_boundary() { asm volatile("" ::: "memory"); }

// cos(2 pi i / N) and sin(2 pi i / N), rounded once from double.
template <int N>
struct Circle {
  float cos[N] = {}, sin[N] = {};
  constexpr Circle() {
    for (int i = 0; i < N; i++) {
      const double angle = 6.283185307179586476925 * (2 * i > N ? i - N : i) / N;
      double term = 1, c = 0, s = 0;
      for (int n = 0; n < 36; n++) {
        (n % 2 ? s : c) += n % 4 < 2 ? term : -term;
        term *= angle / (n + 1);
      }
      cos[i] = (float)c;
      sin[i] = (float)s;
    }
  }
};
template <int N>
constexpr Circle<N> kCircle{};

// ---------------------------------------------------------------- even factor, real

// x[0], x[Stride], ...: N samples -> re[0 .. N/2], im[1 .. N/2 - 1]
template <int N, int Stride>
struct EvenReal {
  GCN_INLINE void forward(const Vec* x, Vec* re, Vec* im) {
    Vec even_re[N / 4 + 1], even_im[N / 4 + 1], odd_re[N / 4 + 1], odd_im[N / 4 + 1];
    EvenReal<N / 2, 2 * Stride>::forward(x, even_re, even_im);
    EvenReal<N / 2, 2 * Stride>::forward(x + Stride, odd_re, odd_im);
    re[0] = even_re[0] + odd_re[0];
    re[N / 2] = even_re[0] - odd_re[0];
    re[N / 4] = even_re[N / 4];
    im[N / 4] = -odd_re[N / 4];
#pragma GCC unroll 16
    for (int k = 1; k < N / 4; k++) {
      const float c = kCircle<N>.cos[k], s = kCircle<N>.sin[k];
      const Vec turned_re = odd_re[k] * c + odd_im[k] * s, turned_im = odd_im[k] * c - odd_re[k] * s;
      re[k] = even_re[k] + turned_re;
      im[k] = even_im[k] + turned_im;
      re[N / 2 - k] = even_re[k] - turned_re;
      im[N / 2 - k] = turned_im - even_im[k];
    }
  }
  // The plain sum over all N frequencies. im[0] and im[N/2] are not read.
  GCN_INLINE void inverse(const Vec* re, const Vec* im, Vec* x) {
    Vec even_re[N / 4 + 1], even_im[N / 4 + 1], odd_re[N / 4 + 1], odd_im[N / 4 + 1];
    even_re[0] = re[0] + re[N / 2];
    odd_re[0] = re[0] - re[N / 2];
    even_re[N / 4] = re[N / 4] * 2.f;
    odd_re[N / 4] = im[N / 4] * -2.f;
#pragma GCC unroll 16
    for (int k = 1; k < N / 4; k++) {
      const float c = kCircle<N>.cos[k], s = kCircle<N>.sin[k];
      const Vec a_re = re[k] - re[N / 2 - k], a_im = im[k] + im[N / 2 - k];
      even_re[k] = re[k] + re[N / 2 - k];
      even_im[k] = im[k] - im[N / 2 - k];
      odd_re[k] = a_re * c - a_im * s;
      odd_im[k] = a_re * s + a_im * c;
    }
    EvenReal<N / 2, 2 * Stride>::inverse(even_re, even_im, x);
    EvenReal<N / 2, 2 * Stride>::inverse(odd_re, odd_im, x + Stride);
  }
};

template <int Stride>
struct EvenReal<4, Stride> {
  GCN_INLINE void forward(const Vec* x, Vec* re, Vec* im) {
    const Vec a = x[0] + x[2 * Stride], b = x[Stride] + x[3 * Stride];
    re[0] = a + b;
    re[2] = a - b;
    re[1] = x[0] - x[2 * Stride];
    im[1] = x[3 * Stride] - x[Stride];
  }
  GCN_INLINE void inverse(const Vec* re, const Vec* im, Vec* x) {
    const Vec a = re[0] + re[2], b = re[0] - re[2], c = re[1] * 2.f, d = im[1] * 2.f;
    x[0] = a + c;
    x[2 * Stride] = a - c;
    x[Stride] = b - d;
    x[3 * Stride] = b + d;
  }
};

// ---------------------------------------------------------------- odd factor

// N samples with both parts, in place; the inverse is the same with the parts exchanged.
// With s_j = x_j + x_{N-j} and d_j = x_j - x_{N-j}:  X_k, X_{N-k} = x_0 + sum_j s_j cos(jk) -+ i sum_j d_j
// sin(jk)
template <int N>
struct OddComplex {
  GCN_INLINE void transform(Vec* re, Vec* im) {
    constexpr int H = N / 2;
    Vec sum_re[H + 1], sum_im[H + 1], dif_re[H + 1], dif_im[H + 1], first_re = re[0], first_im = im[0];
#pragma GCC unroll 8
    for (int j = 1; j <= H; j++) {
      sum_re[j] = re[j] + re[N - j];
      sum_im[j] = im[j] + im[N - j];
      dif_re[j] = re[j] - re[N - j];
      dif_im[j] = im[j] - im[N - j];
      re[0] += sum_re[j];
      im[0] += sum_im[j];
    }
#pragma GCC unroll 8
    for (int k = 1; k <= H; k++) {
      Vec c_re = first_re, c_im = first_im, s_re = Vec{}, s_im = Vec{};
#pragma GCC unroll 8
      for (int j = 1; j <= H; j++) {
        const float c = kCircle<N>.cos[j * k % N], s = kCircle<N>.sin[j * k % N];
        c_re += sum_re[j] * c;
        c_im += sum_im[j] * c;
        s_re = j == 1 ? dif_re[j] * s : s_re + dif_re[j] * s;
        s_im = j == 1 ? dif_im[j] * s : s_im + dif_im[j] * s;
      }
      re[k] = c_re + s_im;
      im[k] = c_im - s_re;
      re[N - k] = c_re - s_im;
      im[N - k] = c_im + s_re;
    }
  }
};

template <>
struct OddComplex<1> {
  GCN_INLINE void transform(Vec*, Vec*) {}
};

template <>
struct OddComplex<9> {  // 3 x 3 with twiddle factors
  GCN_INLINE void transform(Vec* re, Vec* im) {
    Vec a_re[3][3], a_im[3][3];
#pragma GCC unroll 3
    for (int n = 0; n < 3; n++) {
#pragma GCC unroll 3
      for (int j = 0; j < 3; j++) {
        a_re[n][j] = re[n + 3 * j];
        a_im[n][j] = im[n + 3 * j];
      }
      OddComplex<3>::transform(a_re[n], a_im[n]);
    }
#pragma GCC unroll 3
    for (int k = 0; k < 3; k++) {
      Vec b_re[3] = {a_re[0][k], a_re[1][k], a_re[2][k]}, b_im[3] = {a_im[0][k], a_im[1][k], a_im[2][k]};
      if (k > 0) {
#pragma GCC unroll 3
        for (int n = 1; n < 3; n++) {
          const float c = kCircle<9>.cos[n * k], s = kCircle<9>.sin[n * k];
          const Vec turned_re = b_re[n] * c + b_im[n] * s;
          b_im[n] = b_im[n] * c - b_re[n] * s;
          b_re[n] = turned_re;
        }
      }
      OddComplex<3>::transform(b_re, b_im);
#pragma GCC unroll 3
      for (int j = 0; j < 3; j++) {
        re[k + 3 * j] = b_re[j];
        im[k + 3 * j] = b_im[j];
      }
    }
  }
};

// N real samples <-> re[0 .. N/2], im[1 .. N/2]: the same sums without the zero imaginary parts.
template <int N>
struct OddReal {
  GCN_INLINE void forward(const Vec* x, Vec* re, Vec* im) {
    re[0] = x[0];
#pragma GCC unroll 8
    for (int j = 1; j <= N / 2; j++) re[0] += x[j] + x[N - j];
#pragma GCC unroll 8
    for (int k = 1; k <= N / 2; k++) {
      re[k] = x[0];
      im[k] = Vec{};
#pragma GCC unroll 8
      for (int j = 1; j <= N / 2; j++) {
        re[k] += (x[j] + x[N - j]) * kCircle<N>.cos[j * k % N];
        im[k] += (x[N - j] - x[j]) * kCircle<N>.sin[j * k % N];
      }
    }
  }
  GCN_INLINE void inverse(const Vec* re, const Vec* im, Vec* x) {
    x[0] = re[0];
#pragma GCC unroll 8
    for (int k = 1; k <= N / 2; k++) x[0] += re[k] * 2.f;
#pragma GCC unroll 8
    for (int n = 1; n <= N / 2; n++) {
      Vec even = re[0], odd = Vec{};
#pragma GCC unroll 8
      for (int k = 1; k <= N / 2; k++) {
        even += re[k] * (2.f * kCircle<N>.cos[n * k % N]);
        odd += im[k] * (2.f * kCircle<N>.sin[n * k % N]);
      }
      x[n] = even - odd;
      x[N - n] = even + odd;
    }
  }
};

// ---------------------------------------------------------------- the transform of length L

template <int N1, int N2>
struct RealTransform {
  static constexpr int kLength = N1 * N2;
  static constexpr int kPoints = (N1 / 2 - 1) * N2 + (N2 - 1);

  // The first point with k1 = 0, N1/2 (k2 = 1 .. N2/2) and with 0 < k1 < N1/2 (k2 = 0 .. N2 - 1).
  static constexpr int edge_point(int e) { return e * (N2 / 2); }
  static constexpr int inner_point(int k1) { return (N2 - 1) + (k1 - 1) * N2; }

  // x[0 .. L-1] -> plane p at spectrum + p * stride. scratch: L + 2 N2 vectors
  static __attribute__((noinline)) void forward(const Vec* __restrict x, Vec* __restrict spectrum, int64_t stride,
                                                Vec* __restrict scratch) {
#pragma GCC unroll 16
    for (int n2 = 0; n2 < N2; n2++) {
      Vec in[N1], re[N1 / 2 + 1], im[N1 / 2 + 1];
#pragma GCC unroll 32
      for (int n1 = 0; n1 < N1; n1++) in[n1] = x[(N2 * n1 + N1 * n2) % kLength];
      EvenReal<N1, 1>::forward(in, re, im);
      scratch[n2] = re[0];
      scratch[N2 + n2] = re[N1 / 2];
#pragma GCC unroll 16
      for (int k = 1; k < N1 / 2; k++) {
        scratch[2 * k * N2 + n2] = re[k];
        scratch[(2 * k + 1) * N2 + n2] = im[k];
      }
    }
    pass_boundary();
    for (int e = 0; e < 2; e++) {
      Vec re[N2 / 2 + 1], im[N2 / 2 + 1];
      OddReal<N2>::forward(scratch + e * N2, re, im);
      spectrum[(2 * kPoints + e) * stride] = re[0];
#pragma GCC unroll 16
      for (int k = 1; k <= N2 / 2; k++) {
        Vec* to = spectrum + 2 * (edge_point(e) + k - 1) * stride;
        to[0] = re[k];
        to[stride] = im[k];
      }
    }
    for (int k1 = 1; k1 < N1 / 2; k1++) {
      Vec re[N2], im[N2];
#pragma GCC unroll 16
      for (int j = 0; j < N2; j++) {
        re[j] = scratch[2 * k1 * N2 + j];
        im[j] = scratch[(2 * k1 + 1) * N2 + j];
      }
      OddComplex<N2>::transform(re, im);
      Vec* to = spectrum + 2 * inner_point(k1) * stride;
#pragma GCC unroll 16
      for (int j = 0; j < N2; j++, to += 2 * stride) {
        to[0] = re[j];
        to[stride] = im[j];
      }
    }
  }

  // Plane p of a product at product + p * stride -> x[0 .. L-1]
  static __attribute__((noinline)) void inverse(const Vec* __restrict product, int64_t stride, Vec* __restrict x,
                                                Vec* __restrict scratch) {
    for (int e = 0; e < 2; e++) {
      Vec re[N2 / 2 + 1], im[N2 / 2 + 1], out[N2];
      re[0] = product[(3 * kPoints + e) * stride];
#pragma GCC unroll 16
      for (int k = 1; k <= N2 / 2; k++) {
        const Vec* from = product + 3 * (edge_point(e) + k - 1) * stride;
        re[k] = from[2 * stride] - from[stride];
        im[k] = from[2 * stride] + from[0];
      }
      OddReal<N2>::inverse(re, im, out);
#pragma GCC unroll 16
      for (int j = 0; j < N2; j++) scratch[e * N2 + j] = out[j];
    }
    for (int k1 = 1; k1 < N1 / 2; k1++) {
      Vec re[N2], im[N2];
      const Vec* from = product + 3 * inner_point(k1) * stride;
#pragma GCC unroll 16
      for (int j = 0; j < N2; j++, from += 3 * stride) {
        re[j] = from[2 * stride] - from[stride];
        im[j] = from[2 * stride] + from[0];
      }
      OddComplex<N2>::transform(im, re);
#pragma GCC unroll 16
      for (int j = 0; j < N2; j++) {
        scratch[2 * k1 * N2 + j] = re[j];
        scratch[(2 * k1 + 1) * N2 + j] = im[j];
      }
    }
    pass_boundary();
#pragma GCC unroll 16
    for (int n2 = 0; n2 < N2; n2++) {
      Vec out[N1], re[N1 / 2 + 1], im[N1 / 2 + 1];
      re[0] = scratch[n2];
      re[N1 / 2] = scratch[N2 + n2];
#pragma GCC unroll 16
      for (int k = 1; k < N1 / 2; k++) {
        re[k] = scratch[2 * k * N2 + n2];
        im[k] = scratch[(2 * k + 1) * N2 + n2];
      }
      EvenReal<N1, 1>::inverse(re, im, out);
#pragma GCC unroll 32
      for (int n1 = 0; n1 < N1; n1++) x[(N2 * n1 + N1 * n2) % kLength] = out[n1];
    }
  }
};

struct Transform {
  int length, points;
  void (*forward)(const Vec* x, Vec* spectrum, int64_t stride, Vec* scratch);
  void (*inverse)(const Vec* product, int64_t stride, Vec* x, Vec* scratch);
};

template <int N1, int N2>
constexpr Transform make_transform() {
  using R = RealTransform<N1, N2>;
  return {R::kLength, R::kPoints, R::forward, R::inverse};
}

// The lengths of kLengths in plan.h, in the same order.
static const Transform kTransforms[] = {
    make_transform<8, 1>(),  make_transform<16, 1>(), make_transform<8, 3>(),  make_transform<32, 1>(), make_transform<8, 5>(),
    make_transform<16, 3>(), make_transform<8, 7>(),  make_transform<8, 9>(),  make_transform<16, 5>(), make_transform<32, 3>(),
    make_transform<16, 7>(), make_transform<16, 9>(), make_transform<32, 5>(), make_transform<32, 7>(), make_transform<32, 9>(),
};

GCN_INLINE const Transform& find_transform(int length) {
  const Transform* t = kTransforms;
  while (t->length != length) t++;
  return *t;
}

}  // namespace GCN_FFT_ISA
}  // namespace fft
}  // namespace gcn::cpu
