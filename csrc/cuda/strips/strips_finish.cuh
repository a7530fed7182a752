// Gradients of weights and biases from the parts that strips_tile.cuh has left: for every channel and sum
//
//   gradient[c, i] = sum over parts of partial[part][c][first + i]
//
// A block has some sums of one channel, with neighbours in memory next to each other, and shares their parts out among its
// threads. The order is fixed, whatever runs first. Bound by reading the parts, which mostly lie in L2.
#pragma once

#include "../block_sum.cuh"
#include "../device.cuh"
#include "strips_kernels.h"

namespace gcn::cuda {

constexpr int kStripsFinishThreads = 256, kStripsPartsAtOnce = 4;

// Grid: x = channel, y = kStripsSums sums.
template <class E>
__global__ void __launch_bounds__(kStripsFinishThreads) strips_finish_kernel(GCN_PARAMS StripsFinish p) {
  using A = Accumulator<E>;
  GCN_DYNAMIC_SHARED(shared);
  constexpr int kShares = kStripsFinishThreads / kStripsSums;
  launch_dependents();
  wait_for_dependencies();
  const int tid = int(threadIdx.x), c = int(blockIdx.x), of_channel = int(blockIdx.y) * kStripsSums + tid % kStripsSums;
  A sum = 0;
  if (of_channel < p.sums) {
    const int64_t to_next = int64_t(p.c) * p.sums;
    const A* from = static_cast<const A*>(p.partial) + int64_t(c) * p.sums + of_channel;
#pragma unroll kStripsPartsAtOnce
    for (int64_t part = tid / kStripsSums; part < p.parts; part += kShares) sum += from[part * to_next];
  }
  sum = sum_over_threads(sum, reinterpret_cast<A*>(shared), kStripsFinishThreads, kStripsSums);
  if (tid >= kStripsSums || of_channel >= p.sums) return;
  for (int i = 0; i < p.gradients; ++i) {
    const StripsFinish::Gradient& g = p.gradient[i];
    const int at = of_channel - g.first;
    if (at >= 0 && at < g.count) static_cast<E*>(g.out)[int64_t(c) * g.count + at] = from_float<E>(sum);
  }
}

template <class E>
int launch_strips_finish(const StripsFinish& p, Stream s) {
  const dim3 grid(unsigned(p.c), unsigned((p.sums + kStripsSums - 1) / kStripsSums));
  const Launch how{grid, kStripsFinishThreads, kStripsFinishThreads * sizeof(Accumulator<E>), s.stream, s.dependent};
  return launch(strips_finish_kernel<E>, how, p);
}

}  // namespace gcn::cuda
