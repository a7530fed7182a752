// What the kernels of the doubling that read device memory share: kernels of all sizes seen as ones of 4 x 4 with padding 1. Of 3
// x 3 the last position is missing, of 2 x 2 the first and the last.
#pragma once

#include "../indices.cuh"
#include "upsample_kernels.h"

namespace gcn::cuda {

constexpr int kUpsampleDirectThreads = 128;
// Blocks that share a multiprocessor at least: numbers of float64 take two registers each.
template <class E>
constexpr int kUpsampleDirectResident = sizeof(E) == 8 ? 2 : 4;
constexpr int64_t kUpsampleDirectBlocks = 1 << 20;  // at most; the kernels loop

// Whether a kernel k x k has a tap at a position of 4 x 4.
GCN_DEVICE bool upsample_has(int k, int row, int col) {
  return row == 3 || col == 3 ? k == 4 : row == 0 || col == 0 ? k > 2 : true;
}

// Which of the kernel's taps that is.
GCN_DEVICE int upsample_tap_at(int k, int row, int col) { return (row - int(k == 2)) * k + (col - int(k == 2)); }

constexpr int kUpsampleSums = 17;  // of sixteen positions, and of dy

// The taps by their positions; zeros where there are none.
template <class E>
GCN_DEVICE void load_taps(Accumulator<E> (&taps)[4][4], const E* weight, int k) {
#pragma unroll
  for (int row = 0; row < 4; ++row)
#pragma unroll
    for (int col = 0; col < 4; ++col) {
      taps[row][col] = 0;
      if (upsample_has(k, row, col)) taps[row][col] = to_float(weight[upsample_tap_at(k, row, col)]);
    }
}

// Adds up the sums of a block's threads: the first threads get one each. `scratch`: [warp][kCount].
template <int kCount, class A>
GCN_DEVICE A sum_of_each(A (&mine)[kCount], A* scratch) {
  constexpr int kWarps = kUpsampleDirectThreads / 32;
  const int tid = int(threadIdx.x);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) mine[i] += shuffle_xor(mine[i], distance);
    if (tid % 32 == 0) store_shared(scratch + (tid / 32 * kCount + i), mine[i]);
  }
  __syncthreads();
  A sum = 0;
  if (tid < kCount) {
    for (int warp = 0; warp < kWarps; ++warp) sum += load_shared(scratch + (warp * kCount + tid));
  }
  __syncthreads();  // before the next sums
  return sum;
}

}  // namespace gcn::cuda
