// Micro-kernels of the spectral product. On one plane, for P vectors of lanes, R reduction indices and M
// outputs:
//
//   acc[m][p] (=|+=) sum_r s[r][p] * b[r][m]          s: vectors, b: scalars broadcast to all lanes
//
// Convolution: lanes are lines of the image, r channels, m output channels, b weights. Weight gradient: lanes
// are channels, r lines, m output channels, b the output's gradient.
//
// P x M accumulators stay in registers (24 of 32 with AVX-512, 12 of 16 otherwise), M in nearly equal blocks.
// Each call sums from zero and adds to acc once: it costs nothing and makes the rounding error that of a
// blocked sum. Bound by the FMA pipes while s and b stream from L2; the next plane of s and b is fetched into
// L1 meanwhile.
#pragma once

#include "simd.h"

namespace gcn::cpu {
namespace fft {
namespace GCN_FFT_ISA {

#if GCN_FFT_VECTOR_BYTES == 64
constexpr int kAccumulators = 24;
#elif GCN_FFT_VECTOR_BYTES == 32
constexpr int kAccumulators = 12;
#else
constexpr int kAccumulators = 8;
#endif

struct PlaneProduct {
  const Vec* s;         // [reductions][P]
  const Vec* next_s;    // fetched into L1
  int64_t sum_back;     // for planes (a + b): distance from plane b back to plane a; else 0
  const float* b;       // [reductions][outputs]
  const float* next_b;  // fetched into L1, of the same size
  Vec* acc;             // [outputs][P]
  int reductions, outputs;
  bool first;
};

template <int P, int M, bool Sum>
static void micro_kernel(const PlaneProduct& in, int m0) {
  Vec acc[M][P];
#pragma GCC unroll 32
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) acc[m][p] = Vec{};
  const int64_t outputs = in.outputs, reductions = in.reductions;
  const Vec *s = in.s, *back = in.s - in.sum_back, *next_s = in.next_s;
  const float *b = in.b + m0, *next_b = in.next_b + m0;
  for (int64_t r = 0; r < reductions; r++, s += P, back += P, next_s += P, b += outputs, next_b += outputs) {
    Vec a[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) a[p] = Sum ? s[p] + back[p] : s[p];
    if (m0 == 0 && !Sum) {
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) prefetch_near(next_s + p);
    }
    prefetch_near(next_b);
#pragma GCC unroll 32
    for (int m = 0; m < M; m++) {
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) acc[m][p] += a[p] * b[m];
    }
  }
  Vec* out = in.acc + m0 * P;
#pragma GCC unroll 32
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) out[m * P + p] = in.first ? acc[m][p] : out[m * P + p] + acc[m][p];
}

using MicroKernel = void (*)(const PlaneProduct&, int m0);

template <int P>
struct MicroKernels {
  static constexpr int kMax = kAccumulators / P;
  template <bool Sum, size_t... M>
  static MicroKernel pick(int m, std::index_sequence<M...>) {
    static constexpr MicroKernel table[] = {micro_kernel<P, (int)M + 1, Sum>...};
    return table[m - 1];
  }
  // All outputs of one plane.
  static void run(const PlaneProduct& in) {
    const int blocks = (in.outputs + kMax - 1) / kMax;
    for (int i = 0, m0 = 0; i < blocks; i++) {
      const int m1 = (int64_t)in.outputs * (i + 1) / blocks;
      const auto index = std::make_index_sequence<kMax>{};
      (in.sum_back ? pick<true>(m1 - m0, index) : pick<false>(m1 - m0, index))(in, m0);
      m0 = m1;
    }
  }
};

GCN_INLINE void multiply_plane(int vectors, const PlaneProduct& in) {
  if (vectors == 1) return MicroKernels<1>::run(in);
  if (vectors == 2) return MicroKernels<2>::run(in);
  return MicroKernels<4>::run(in);
}

}  // namespace GCN_FFT_ISA
}  // namespace fft
}  // namespace gcn::cpu
