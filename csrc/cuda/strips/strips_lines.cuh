// What a thread of strips_tile.cuh does in registers: some neighbouring outputs of a line, and products of two lines.
//
// A line runs along a kernel's longer axis: down a column, or along a row. Where the number of taps is known to the compiler,
// everything is unrolled: every input is read once, goes into all sums that it belongs to, and no register moves. Along a row
// inputs come in quads; a map's rows and what its regions reach beyond the core are whole quads, so that k / 2 alone says where
// the first input stands in its quad. For other kernels a window of inputs moves by eight taps at a time, and where taps are
// further apart than one pixel every product has a load of its own.
#pragma once

#include "../device.cuh"
#include "strips_kernels.h"

namespace gcn::cuda {

GCN_DEVICE void load_quad(float (&to)[kStripsQuad], const float* from) {
  const float4 v = load_shared(reinterpret_cast<const float4*>(from));
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
GCN_DEVICE void load_quad(double (&to)[kStripsQuad], const double* from) {
  const double2 low = load_shared(reinterpret_cast<const double2*>(from));
  const double2 high = load_shared(reinterpret_cast<const double2*>(from) + 1);
  to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
}
GCN_DEVICE void store_quad(float* to, const float (&v)[kStripsQuad]) {
  store_shared(reinterpret_cast<float4*>(to), make_float4(v[0], v[1], v[2], v[3]));
}
GCN_DEVICE void store_quad(double* to, const double (&v)[kStripsQuad]) {
  store_shared(reinterpret_cast<double2*>(to), make_double2(v[0], v[1]));
  store_shared(reinterpret_cast<double2*>(to) + 1, make_double2(v[2], v[3]));
}

// use(j, x) for every input x = line[j * step], j < kCount. Along a row `line` is kSkip elements into a quad.
template <bool kDown, int kCount, int kSkip, class A, class Use>
GCN_DEVICE void for_each_input(const A* line, int step, const Use& use) {
  if constexpr (kDown) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) use(j, load_shared(line + j * step));
  } else {
#pragma unroll
    for (int first = -kSkip; first < kCount; first += kStripsQuad) {
      A x[kStripsQuad];
      load_quad(x, line + first);
#pragma unroll
      for (int e = 0; e < kStripsQuad; ++e) {
        if (first + e >= 0 && first + e < kCount) use(first + e, x[e]);
      }
    }
  }
}

// Where the first of k inputs around a multiple of a quad stands in its quad.
template <int kTaps>
constexpr int kStripsSkip = (kStripsQuad - kTaps / 2 % kStripsQuad) % kStripsQuad;

// The kOutputs values of a line.
template <bool kDown, int kOutputs, class A>
GCN_DEVICE void load_values(A (&to)[kOutputs], const A* line, int step) {
  for_each_input<kDown, kOutputs, 0>(line, step, [&](int i, A value) { to[i] = value; });
}

// sum[i] += w[t] line[i + t]: `line` points to the first input of output 0, `step` is from one to the next.
template <int kTaps, bool kDown, class A, int kOutputs>
GCN_DEVICE void add_taps(A (&sum)[kOutputs], const A* line, int step, const A* weights) {
  A w[(kTaps + kStripsQuad - 1) / kStripsQuad][kStripsQuad];
#pragma unroll
  for (int t = 0; t < kTaps; t += kStripsQuad) load_quad(w[t / kStripsQuad], weights + t);
  for_each_input<kDown, kOutputs + kTaps - 1, kStripsSkip<kTaps>>(line, step, [&](int j, A x) {
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      if (j - t >= 0 && j - t < kOutputs) sum[j - t] += w[t / kStripsQuad][t % kStripsQuad] * x;
    }
  });
}

// sum[t] += g[i] line[i + t].
template <int kTaps, bool kDown, class A, int kSums, int kPixels>
GCN_DEVICE void add_products(A (&sum)[kSums], const A (&g)[kPixels], const A* line, int step) {
  static_assert(kSums >= kTaps);
  for_each_input<kDown, kPixels + kTaps - 1, kStripsSkip<kTaps>>(line, step, [&](int j, A x) {
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      if (j - t >= 0 && j - t < kPixels) sum[t] += g[j - t] * x;
    }
  });
}

// add_taps for any number of taps.
template <class A, int kOutputs>
GCN_DEVICE void add_line(A (&sum)[kOutputs], const A* line, int step, const A* weights, int taps) {
  constexpr int kGroup = kStripsGroup;
  A window[kOutputs + kGroup - 1], w[kGroup / kStripsQuad][kStripsQuad];
#pragma unroll
  for (int i = 0; i < kOutputs - 1; ++i) window[i] = load_shared(line + i * step);
  line += (kOutputs - 1) * step;
#pragma unroll 1
  for (; taps >= kGroup; taps -= kGroup, line += kGroup * step, weights += kGroup) {
#pragma unroll
    for (int q = 0; q < kGroup / kStripsQuad; ++q) load_quad(w[q], weights + q * kStripsQuad);
#pragma unroll
    for (int t = 0; t < kGroup; ++t) window[kOutputs - 1 + t] = load_shared(line + t * step);
#pragma unroll
    for (int t = 0; t < kGroup; ++t) {
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) sum[i] += w[t / kStripsQuad][t % kStripsQuad] * window[i + t];
    }
#pragma unroll
    for (int i = 0; i < kOutputs - 1; ++i) window[i] = window[i + kGroup];
  }
  // Fewer than a group are left: k is odd.
#pragma unroll
  for (int q = 0; q < kGroup / kStripsQuad; ++q) load_quad(w[q], weights + q * kStripsQuad);
#pragma unroll
  for (int t = 0; t < kGroup - 1; ++t) window[kOutputs - 1 + t] = t < taps ? load_shared(line + t * step) : A(0);
#pragma unroll
  for (int t = 0; t < kGroup - 1; ++t) {
    if (t >= taps) break;
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) sum[i] += w[t / kStripsQuad][t % kStripsQuad] * window[i + t];
  }
}

// The same where the taps are `dilation` inputs apart.
template <class A, int kOutputs>
GCN_DEVICE void add_dilated_line(A (&sum)[kOutputs], const A* line, int step, int dilation, const A* weights, int taps) {
#pragma unroll 1
  for (int t = 0; t < taps; ++t, line += dilation * step) {
    const A weight = load_shared(weights + t);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) sum[i] += weight * load_shared(line + i * step);
  }
}

// sum[t] += g[i] x[i + dilation t], of at most eight taps, over `count` pixels i of at most eight.
template <class A>
GCN_DEVICE void add_some_products(A (&sum)[kStripsGroup], const A* g, int g_step, int count, const A* x, int x_step, int dilation,
                                  int taps) {
  constexpr int kGroup = kStripsGroup;
  if (dilation == 1) {
    A window[2 * kGroup - 1];
#pragma unroll
    for (int i = 0; i < 2 * kGroup - 1; ++i) window[i] = i < count - 1 + taps ? load_shared(x + i * x_step) : A(0);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      if (i >= count) break;
      const A of_pixel = load_shared(g + i * g_step);
#pragma unroll
      for (int t = 0; t < kGroup; ++t) sum[t] += of_pixel * window[i + t];
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const A of_pixel = load_shared(g + i * g_step);
#pragma unroll
    for (int t = 0; t < kGroup; ++t) {
      if (t < taps) sum[t] += of_pixel * load_shared(x + (i + t * dilation) * x_step);
    }
  }
}

// The sum over the warp of each of eight values, of which lane l gets the one of place l / 4.
template <class A>
GCN_DEVICE A sum_over_warp(A (&v)[kStripsGroup], int lane) {
  constexpr int kWarp = 32;
#pragma unroll
  for (int half = kStripsGroup / 2, mask = kWarp / 2; half > 0; half /= 2, mask /= 2) {
    const bool upper = lane & mask;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const A kept_one = upper ? v[i + half] : v[i], sent = upper ? v[i] : v[i + half];
      v[i] = kept_one + shuffle_xor(sent, mask);
    }
  }
  v[0] += shuffle_xor(v[0], 2);
  return v[0] + shuffle_xor(v[0], 1);
}

}  // namespace gcn::cuda
