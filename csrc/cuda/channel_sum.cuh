// Bias gradients: sums of padded maps over their pixels, in a fixed order.
//
//   partial[chunk][c] = sum over the chunk's pixels;   finish.cuh adds the chunks
//
// A block has one chunk of pixels; each thread adds up one channel of every (threads / channels)-th pixel, and the threads of a
// channel are added in their order. Bound by reading the maps, which are 2 M + O channels wide.
#pragma once

#include "device.cuh"
#include "kernels.h"

namespace gcn::cuda {

constexpr int kSumThreads = 256;
constexpr int kSumBytes = kSumThreads * 8;

// Grid: x = chunk, y = map.
template <class E>
__global__ void __launch_bounds__(kSumThreads) channel_sum_kernel(GCN_PARAMS ChannelSumParams p) {
  using A = Accumulator<E>;
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  A* sums = reinterpret_cast<A*>(shared);
  const ChannelSum& j = p.job[blockIdx.y];
  const int64_t first = p.pixels * blockIdx.x / p.chunks, last = p.pixels * (blockIdx.x + 1) / p.chunks;
  const int width = min(j.channels, kSumThreads), rows = kSumThreads / width, tid = threadIdx.x;
  wait_for_dependencies();
  for (int first_channel = 0; first_channel < j.channels; first_channel += width) {
    const int channel = first_channel + tid % width;
    A sum = 0;
    if (tid < rows * width && channel < j.channels) {
      for (int64_t pixel = first + tid / width; pixel < last; pixel += rows) {
        sum += to_float(static_cast<const E*>(j.map)[pixel * j.channels + channel]);
      }
    }
    store_shared(sums + tid, sum);
    __syncthreads();
    if (tid < width && channel < j.channels) {
      A total = 0;
      for (int row = 0; row < rows; ++row) total += load_shared(sums + row * width + tid);
      static_cast<A*>(j.partial)[int64_t(blockIdx.x) * j.channels + channel] = total;
    }
    __syncthreads();
  }
}

template <class E>
int launch_channel_sum(const ChannelSumParams& p, Stream s) {
  return launch(channel_sum_kernel<E>, Launch{dim3(p.chunks, p.jobs), kSumThreads, kSumBytes, s.stream, s.dependent}, p);
}

}  // namespace gcn::cuda
