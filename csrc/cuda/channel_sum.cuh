// Bias gradients: sums of padded maps over their pixels, in a fixed order.
//
//   partial[chunk][c] = sum over the chunk's pixels;   out[c] = sum over chunks
//
// A block has one chunk of pixels; each thread adds up one channel of every (threads / channels)-th pixel, and the threads of a
// channel are added in their order. Bound by reading the maps, which are 2 M + O channels wide.
#pragma once

#include <algorithm>

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

// Grid: x = channels, y = map.
template <class E>
__global__ void __launch_bounds__(kSumThreads) finish_channel_sum_kernel(GCN_PARAMS ChannelSumParams p) {
  using A = Accumulator<E>;
  launch_dependents();
  const ChannelSum& j = p.job[blockIdx.y];
  const int channel = int(blockIdx.x) * kSumThreads + int(threadIdx.x);
  wait_for_dependencies();
  if (channel >= j.outputs) return;
  A total = 0;
  for (int chunk = 0; chunk < p.chunks; ++chunk) total += static_cast<const A*>(j.partial)[int64_t(chunk) * j.channels + channel];
  for (void* out : j.out) {
    if (out) static_cast<E*>(out)[channel] = from_float<E>(total);
  }
}

template <class E>
int launch_channel_sum(const ChannelSumParams& p, Stream s) {
  int most = 0;
  for (int i = 0; i < p.jobs; ++i) most = std::max(most, p.job[i].outputs);
  const Launch first{dim3(p.chunks, p.jobs), kSumThreads, kSumBytes, s.stream, s.dependent};
  if (const int error = launch(channel_sum_kernel<E>, first, p)) return error;
  const Launch second{dim3((most + kSumThreads - 1) / kSumThreads, p.jobs), kSumThreads, 0, s.stream, true};
  return launch(finish_channel_sum_kernel<E>, second, p);
}

}  // namespace gcn::cuda
