// Sums over the threads of a block.
#pragma once

#include "device.cuh"

namespace gcn::cuda {

// Thread i < width: the sum of what threads i, i + width, i + 2 width ... have, by halves: in a fixed order, and with the small
// error of pairwise sums. Threads and width are powers of two; every thread calls this, with `sums` of the block's size in shared
// memory that nobody uses.
template <class A>
GCN_DEVICE A sum_over_threads(A mine, A* sums, int threads, int width) {
  const int tid = int(threadIdx.x);
  store_shared(sums + tid, mine);
  __syncthreads();
  for (int half = threads / 2; half >= width; half /= 2) {
    if (tid < half) store_shared(sums + tid, load_shared(sums + tid) + load_shared(sums + tid + half));
    __syncthreads();
  }
  const A sum = load_shared(sums + tid % width);
  __syncthreads();  // before the next sum
  return sum;
}

}  // namespace gcn::cuda
