// Gradients of the weight and the bias from the parts that blocks have left, added in the order of a fixed tree. Neighbouring
// threads have neighbouring sums. Bound by reading the parts, which mostly lie in L2.
#pragma once

#include "../block_sum.cuh"
#include "../device.cuh"
#include "upsample_kernels.h"

namespace gcn::cuda {

constexpr int kUpsampleFinishThreads = 256, kUpsampleFinishSums = 32;

// Grid: x = 32 sums, first those of the weight and then those of the bias.
template <class E>
__global__ void __launch_bounds__(kUpsampleFinishThreads) upsample_finish_kernel(GCN_PARAMS UpsampleFinish p) {
  using A = Accumulator<E>;
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const int tid = int(threadIdx.x), share = tid / kUpsampleFinishSums;
  const int64_t of_weight = p.weight ? int64_t(p.taps) * p.o_padded * p.c_padded : 0;
  const int64_t before = (of_weight + kUpsampleFinishSums - 1) / kUpsampleFinishSums;  // blocks
  const bool is_bias = int64_t(blockIdx.x) >= before;
  const int64_t at = (int64_t(blockIdx.x) - (is_bias ? before : 0)) * kUpsampleFinishSums + tid % kUpsampleFinishSums;
  const int64_t count = is_bias ? p.biases_padded : of_weight, parts = is_bias ? p.parts_bias : p.parts;
  const A* const first = static_cast<const A*>(is_bias ? p.partial_bias : p.partial);
  A sum = 0;
  if (at < count) {
#pragma unroll 4
    for (int64_t part = share; part < parts; part += kUpsampleFinishThreads / kUpsampleFinishSums)
      sum += first[part * count + at];
  }
  sum = sum_over_threads(sum, reinterpret_cast<A*>(shared), kUpsampleFinishThreads, kUpsampleFinishSums);
  if (share != 0 || at >= count) return;
  if (is_bias) {
    if (at < p.biases) static_cast<E*>(p.bias)[at] = from_float<E>(sum);
    return;
  }
  const int c = int(at % p.c_padded), o = int(at / p.c_padded % p.o_padded), tap = int(at / p.c_padded / p.o_padded);
  if (c < p.c && o < p.o) static_cast<E*>(p.weight)[(int64_t(c) * p.o + o) * p.taps + tap] = from_float<E>(sum);
}

template <class E>
int launch_upsample_finish(const UpsampleFinish& p, Stream s) {
  const auto blocks_of = [](int64_t sums) { return (sums + kUpsampleFinishSums - 1) / kUpsampleFinishSums; };
  const int64_t of_weight = p.weight ? int64_t(p.taps) * p.o_padded * p.c_padded : 0;
  const dim3 grid(unsigned(blocks_of(of_weight) + (p.bias ? blocks_of(p.biases_padded) : 0)));
  const Launch how{grid, kUpsampleFinishThreads, kUpsampleFinishThreads * sizeof(Accumulator<E>), s.stream, s.dependent};
  return launch(upsample_finish_kernel<E>, how, p);
}

}  // namespace gcn::cuda
