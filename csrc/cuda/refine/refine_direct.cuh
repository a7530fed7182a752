// Boundary refinement a convolution a launch, for float64 and for channels whose tiles do not fit in shared memory.
//
//   conv       to[p] = [addend[p] +] [relu of] sum over taps and channels of w[tap] from[p + tap] + bias     one output a thread
//   gradient   dw[tap] = sum over pixels of a[p] b[p + tap], db = sum of a                     the taps of two channels a block
//
// Sums are kept in fp32 (fp64 for fp64), in a fixed order. Bound by L1: a load and more for each product.
#pragma once

#include <algorithm>

#include "../block_sum.cuh"
#include "../direct_map.cuh"
#include "refine_kernels.h"

namespace gcn::cuda {

constexpr int kRefineDirectThreads = 128, kRefineDirectTerms = 32;
constexpr int64_t kRefineDirectBlocks = 1 << 16;  // at most; the kernels loop

// Grid: x = (image, output channel, pixel).
template <class E>
__global__ void __launch_bounds__(kRefineDirectThreads) refine_direct_conv_kernel(GCN_PARAMS RefineDirectConv p) {
  using A = Accumulator<E>;
  launch_dependents();
  wait_for_dependencies();
  const RefineConv& conv = p.conv;
  const int64_t count = int64_t(p.n) * conv.outputs * p.h * p.w;
  for (int64_t i = int64_t(blockIdx.x) * kRefineDirectThreads + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kRefineDirectThreads) {
    const int w = int(i % p.w), h = int(i / p.w % p.h), output = int(i / p.w / p.h % conv.outputs);
    const int64_t n = i / p.w / p.h / conv.outputs;
    const E* const weight = static_cast<const E*>(conv.weight) + output * conv.of_output;
    A sum = conv.bias ? A(to_float(static_cast<const E*>(conv.bias)[output])) : A(0);
    for (int tap = 0; tap < 9; ++tap) {
      const int at_h = h + tap / 3 - 1, at_w = w + tap % 3 - 1;
      if (at_h < 0 || at_h >= p.h || at_w < 0 || at_w >= p.w) continue;
      const E* const of_tap = weight + (conv.flipped ? 8 - tap : tap);
      A of_inputs = 0;
      for (int input = 0; input < conv.inputs; ++input) {
        of_inputs += A(to_float(of_tap[int64_t(input) * conv.of_input])) * element_of<E>(p.from, n, input, at_h, at_w);
      }
      sum += of_inputs;
    }
    if (p.relu && sum < 0) sum = 0;  // nan stays
    if (p.mask.map.data && element_of<E>(p.mask, n, output, h, w) <= 0) sum = 0;
    if (p.addend.map.data) sum += element_of<E>(p.addend, n, output, h, w);
    set_element<E>(p.to, n, output, h, w, sum);
  }
}

// Grid: x = (channel of a, channel of b), with the bias behind the channels of b.
template <class E>
__global__ void __launch_bounds__(kRefineDirectThreads, 8) refine_direct_grad_kernel(GCN_PARAMS RefineDirectGrad p) {
  using A = Accumulator<E>;
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const int64_t pixels = int64_t(p.n) * p.h * p.w;
  for (int64_t i = blockIdx.x; i < int64_t(p.grad.a) * (p.grad.b + 1); i += gridDim.x) {
    const int of_a = int(i / (p.grad.b + 1)), of_b = int(i % (p.grad.b + 1));
    const bool bias = of_b == p.grad.b;
    if (bias ? !p.grad.bias : !p.grad.weight) continue;
    for (int tap = 0; tap < (bias ? 1 : 9); ++tap) {
      A sum = 0, of_some = 0;  // some at a time, for the sake of float64: long sums lose more than PyTorch's
      int left = kRefineDirectTerms;
      for (int64_t pixel = threadIdx.x; pixel < pixels; pixel += kRefineDirectThreads) {
        if (--left == 0) sum += of_some, of_some = 0, left = kRefineDirectTerms;
        const int w = int(pixel % p.w), h = int(pixel / p.w % p.h), at_h = h + tap / 3 - 1, at_w = w + tap % 3 - 1;
        const int64_t n = pixel / p.w / p.h;
        if (bias) {
          of_some += element_of<E>(p.a, n, of_a, h, w);
        } else if (at_h >= 0 && at_h < p.h && at_w >= 0 && at_w < p.w) {
          of_some += element_of<E>(p.a, n, of_a, h, w) * element_of<E>(p.b, n, of_b, at_h, at_w);
        }
      }
      sum = sum_over_threads(sum + of_some, reinterpret_cast<A*>(shared), kRefineDirectThreads, 1);
      if (threadIdx.x != 0) continue;
      if (bias) {
        static_cast<E*>(p.grad.bias)[of_a] = from_float<E>(sum);
      } else {
        static_cast<E*>(p.grad.weight)[(int64_t(of_a) * p.grad.b + of_b) * 9 + tap] = from_float<E>(sum);
      }
    }
  }
}

template <class E>
int launch_refine_direct_conv(const RefineDirectConv& p, Stream s) {
  const int64_t count = int64_t(p.n) * p.conv.outputs * p.h * p.w;
  const int64_t blocks = std::min((count + kRefineDirectThreads - 1) / kRefineDirectThreads, kRefineDirectBlocks);
  const Launch how{dim3(unsigned(blocks)), kRefineDirectThreads, 0, s.stream, s.dependent};
  return launch(refine_direct_conv_kernel<E>, how, p);
}

template <class E>
int launch_refine_direct_grad(const RefineDirectGrad& p, Stream s) {
  const int64_t blocks = std::min(int64_t(p.grad.a) * (p.grad.b + 1), kRefineDirectBlocks);
  const Launch how{dim3(unsigned(blocks)), kRefineDirectThreads, kRefineDirectThreads * sizeof(Accumulator<E>), s.stream,
                   s.dependent};
  return launch(refine_direct_grad_kernel<E>, how, p);
}

}  // namespace gcn::cuda
