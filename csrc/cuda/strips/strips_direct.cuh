// Depthwise strips an operation a launch, for programs whose tiles do not fit in shared memory: kernels that reach thousands of
// pixels, or more steps than strips_kernels.h has room for.
//
//   conv    dst[p] = [addend[p] +] sum over taps of w[tap] src[p + tap] + bias      one output a thread
//   dot     dw[tap] = sum over pixels of g[p] x[p + tap], db = sum of g             one sum a block
//
// Sums are kept in fp32 (fp64 for fp64), in a fixed order. Bound by L1: a load and more for each product.
#pragma once

#include <algorithm>

#include "../block_sum.cuh"
#include "../direct_map.cuh"
#include "strips_kernels.h"

namespace gcn::cuda {

constexpr int kStripsDirectThreads = 128, kStripsDirectTerms = 32;
constexpr int64_t kStripsDirectBlocks = 1 << 16;  // at most; the kernels loop

// Grid: x = (image, channel, pixel).
template <class E>
__global__ void __launch_bounds__(kStripsDirectThreads) strips_direct_conv_kernel(GCN_PARAMS StripsDirectConv p) {
  using A = Accumulator<E>;
  launch_dependents();
  wait_for_dependencies();
  const StripsKernel& k = p.kernel;
  const int64_t count = int64_t(p.n) * p.c * p.h * p.w, taps = int64_t(k.kh) * k.kw;
  const int64_t reach_h = int64_t(k.dh) * (k.kh / 2), reach_w = int64_t(k.dw) * (k.kw / 2);
  for (int64_t i = int64_t(blockIdx.x) * kStripsDirectThreads + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kStripsDirectThreads) {
    const int w = int(i % p.w), h = int(i / p.w % p.h), c = int(i / p.w / p.h % p.c);
    const int64_t n = i / p.w / p.h / p.c;
    const E* const weight = static_cast<const E*>(k.weight) + c * taps;
    A sum = k.bias && !p.flipped ? A(to_float(static_cast<const E*>(k.bias)[c])) : A(0);
    for (int th = 0; th < k.kh; ++th) {
      const int64_t at_h = h - reach_h + int64_t(th) * k.dh;
      if (at_h < 0 || at_h >= p.h) continue;
      for (int tw = 0; tw < k.kw; ++tw) {
        const int64_t at_w = w - reach_w + int64_t(tw) * k.dw;
        if (at_w < 0 || at_w >= p.w) continue;
        const int64_t tap = int64_t(th) * k.kw + tw;
        sum += A(to_float(weight[p.flipped ? taps - 1 - tap : tap])) * element_of<E>(p.src, n, c, int(at_h), int(at_w));
      }
    }
    if (p.addend.map.data) sum += element_of<E>(p.addend, n, c, h, w);
    set_element<E>(p.dst, n, c, h, w, sum);
  }
}

// Grid: x = (channel, tap), with the bias behind the taps.
template <class E>
__global__ void __launch_bounds__(kStripsDirectThreads, 8) strips_direct_dot_kernel(GCN_PARAMS StripsDirectDot p) {
  using A = Accumulator<E>;
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const StripsKernel& k = p.kernel;
  const int64_t taps = int64_t(k.kh) * k.kw, pixels = int64_t(p.n) * p.h * p.w;
  for (int64_t i = blockIdx.x; i < p.c * (taps + 1); i += gridDim.x) {
    const int c = int(i / (taps + 1));
    const int64_t tap = i % (taps + 1);
    const bool bias = tap == taps;
    if (bias ? !p.bias : !p.weight) continue;
    const int64_t shift_h = bias ? 0 : (tap / k.kw - k.kh / 2) * k.dh, shift_w = bias ? 0 : (tap % k.kw - k.kw / 2) * k.dw;
    A sum = 0, of_some = 0;  // some at a time, for the sake of float64: long sums lose more than PyTorch's
    int left = kStripsDirectTerms;
    for (int64_t pixel = threadIdx.x; pixel < pixels; pixel += kStripsDirectThreads) {
      if (--left == 0) sum += of_some, of_some = 0, left = kStripsDirectTerms;
      const int w = int(pixel % p.w), h = int(pixel / p.w % p.h);
      const int64_t n = pixel / p.w / p.h, at_h = h + shift_h, at_w = w + shift_w;
      if (at_h < 0 || at_h >= p.h || at_w < 0 || at_w >= p.w) continue;
      const A of_pixel = element_of<E>(p.g, n, c, h, w);
      of_some += bias ? of_pixel : of_pixel * element_of<E>(p.x, n, c, int(at_h), int(at_w));
    }
    sum = sum_over_threads(sum + of_some, reinterpret_cast<A*>(shared), kStripsDirectThreads, 1);
    if (threadIdx.x != 0) continue;
    if (bias) {
      static_cast<E*>(p.bias)[c] = from_float<E>(sum);
    } else {
      static_cast<E*>(p.weight)[c * taps + tap] = from_float<E>(sum);
    }
  }
}

template <class E>
int launch_strips_direct_conv(const StripsDirectConv& p, Stream s) {
  const int64_t count = int64_t(p.n) * p.c * p.h * p.w, blocks = (count + kStripsDirectThreads - 1) / kStripsDirectThreads;
  const Launch how{dim3(unsigned(std::min(blocks, kStripsDirectBlocks))), kStripsDirectThreads, 0, s.stream, s.dependent};
  return launch(strips_direct_conv_kernel<E>, how, p);
}

template <class E>
int launch_strips_direct_dot(const StripsDirectDot& p, Stream s) {
  const int64_t count = p.c * (int64_t(p.kernel.kh) * p.kernel.kw + 1);
  const Launch how{dim3(unsigned(std::min(count, kStripsDirectBlocks))), kStripsDirectThreads,
                   kStripsDirectThreads * sizeof(Accumulator<E>), s.stream, s.dependent};
  return launch(strips_direct_dot_kernel<E>, how, p);
}

}  // namespace gcn::cuda
