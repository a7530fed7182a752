// The last launch of a backward pass: adds what the launches before left in parts, in a fixed order, and writes the gradients in
// their own layout and type.
//
//   weight    dW[a, b, t] = sum over splits of partial[split][a][column of (b, t)]     of weight_grad.cuh
//   bias      db[c]       = sum over parts of partial[c][part]    of prepare.cuh (dy) and line_conv.cuh (du); a block each
//
// A block of the first kind has one octet of b and some neighbours in the order of (a, t), or of (t, a) where that is the order
// of the gradient's memory. Partial sums have the octet fastest, gradients seldom: a thread adds half an octet, 16 bytes of each
// split, shared memory turns the sums round, and neighbouring threads write neighbours. Many splits are shared out among the
// threads. Bound by reading the parts, which the launches before have just left in L2: with kAtOnce loads in flight a thread, an
// SM has more than 100 KB on their way.
#pragma once

#include "../block_sum.cuh"
#include "../jobs.cuh"
#include "kernels.h"
#include "tiles.h"

namespace gcn::cuda {

constexpr int kAtOnce = 8;           // splits that a thread has on their way
constexpr int kSumRow = kOctet + 1;  // floats of an octet in shared memory: neighbouring octets begin in different banks

// How a block deals with a gradient of so many splits: powers of two.
struct FinishShape {
  int log_shares, log_positions;  // of the splits, a thread each; in the order of (a, t)
};

GCN_HOST_DEVICE FinishShape finish_shape(int splits) {
  constexpr int kMostLog = 3;
  int log = 0;
  while (log < kMostLog && splits > kAtOnce << log) ++log;
  return {log, log2_of(kThreads / 2) - log};
}

GCN_HOST_DEVICE int64_t finish_positions(const FinishWeightGrad& j) { return int64_t(j.channels_a) * j.kernel; }

// Blocks of an octet.
GCN_HOST_DEVICE unsigned finish_tiles(const FinishWeightGrad& j, int log_positions) {
  return unsigned((finish_positions(j) + (1 << log_positions) - 1) >> log_positions);
}

GCN_DEVICE void operator+=(float4& sum, const float4& x) { sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w; }

// Adds up every `step`-th split from `first` on.
GCN_DEVICE float4 sum_of_splits(const float4* of_first, int64_t to_next, int first, int splits, int step) {
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
  for (int split = first; split < splits; split += kAtOnce * step) {
    float4 part[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i, of_first += to_next) {
      part[i] = split + i * step < splits ? *of_first : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) sum += part[i];
  }
  return sum;
}

template <class E>
GCN_DEVICE void finish_weight(const FinishWeightGrad& j, unsigned block, unsigned char* shared) {
  float* sums = reinterpret_cast<float*>(shared);  // [share][position][octet]
  const FinishShape shape = finish_shape(j.splits);
  const int tid = int(threadIdx.x), positions = 1 << shape.log_positions, shares = 1 << shape.log_shares;
  const unsigned tiles = finish_tiles(j, shape.log_positions), octet = block / tiles;
  // Positions are in the order of memory. As 32 bytes of each partial sum they are fewer than 2^32 on any GPU.
  const unsigned first = block % tiles << shape.log_positions, end = unsigned(finish_positions(j));
  const unsigned fastest = unsigned(j.taps_follow ? j.kernel : j.channels_a);
  struct Element {
    int a, tap;
  };
  const auto element_at = [&](unsigned position) {
    const int slow = int(position / fastest), fast = int(position % fastest);
    return j.taps_follow ? Element{slow, fast} : Element{fast, slow};
  };

  {
    const unsigned position = first + (tid / 2 & (positions - 1));
    const auto [a, tap] = element_at(position);
    const int packed_tap = (j.flip ? j.kernel - 1 - tap : tap) - j.skipped, share = tid / 2 >> shape.log_positions;
    float4 sum = make_float4(0, 0, 0, 0);  // taps that only ever touch the padding have no gradient
    if (position < end && packed_tap >= 0 && packed_tap < j.taps) {
      const int64_t of_split = int64_t(j.channels_a) * j.blocks_per_row;
      const int64_t column = int64_t(a) * j.blocks_per_row + j.first_block + int64_t(octet) * j.taps + packed_tap;
      const float4* from = reinterpret_cast<const float4*>(j.partial) + (share * of_split + column) * 2 + tid % 2;
      sum = sum_of_splits(from, of_split * 2 << shape.log_shares, share, j.splits, shares);
    }
    float* to = sums + tid / 2 * kSumRow + tid % 2 * 4;
    store_shared(to, sum.x), store_shared(to + 1, sum.y), store_shared(to + 2, sum.z), store_shared(to + 3, sum.w);
  }
  __syncthreads();

  const int at = tid & (positions - 1), first_b = int(octet) * kOctet;
  const unsigned position = first + at;
  if (position >= end) return;
  const auto [a, tap] = element_at(position);
  E* to = static_cast<E*>(j.out.data) + (a * j.out.output_stride + tap * j.out.tap_stride);
  for (int i = tid >> shape.log_positions; i < min(kOctet, j.channels_b - first_b); i += kThreads >> shape.log_positions) {
    float sum = 0;
    for (int share = 0; share < shares; ++share) sum += load_shared(sums + (share * positions + at) * kSumRow + i);
    to[(first_b + i) * j.out.input_stride] = from_float<E>(sum);
  }
}

template <class E>
GCN_DEVICE void finish_bias(const FinishBiasGrad& j, unsigned channel, unsigned char* shared) {
  using A = Accumulator<E>;
  const A* partial = static_cast<const A*>(j.partial) + int64_t(channel) * j.parts;
  A sum = 0;
#pragma unroll 8
  for (int part = threadIdx.x; part < j.parts; part += kThreads) sum += partial[part];
  sum = sum_over_threads(sum, reinterpret_cast<A*>(shared), kThreads, 1);
  for (void* out : j.out) {
    if (out && threadIdx.x == 0) static_cast<E*>(out)[channel] = from_float<E>(sum);
  }
}

constexpr int kFinishJobs = 7;

struct FinishArguments {
  FinishParams p;
  Jobs<kFinishJobs> jobs;  // gradients of weights, then of biases
};

template <class E>
__global__ void __launch_bounds__(kThreads) finish_kernel(GCN_PARAMS FinishArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  const FinishParams& p = arguments.p;
  launch_dependents();
  const auto [job, block] = find_job(arguments.jobs, blockIdx.x);
  wait_for_dependencies();
  if (job >= p.weights) return finish_bias<E>(p.bias[job - p.weights], block, shared);
  if constexpr (sizeof(E) < 8) {  // float64 has the direct kernels, which leave nothing to add
    finish_weight<E>(p.weight[job], block, shared);
  }
}

template <class E>
int launch_finish(const FinishParams& p, Stream s) {
  FinishArguments arguments{p, {}};
  for (int i = 0; i < p.weights; ++i) {
    const FinishWeightGrad& j = p.weight[i];
    const int octets = (j.channels_b + kOctet - 1) / kOctet;
    arguments.jobs.add(int64_t(octets) * finish_tiles(j, finish_shape(j.splits).log_positions));
  }
  for (int i = 0; i < p.biases; ++i) arguments.jobs.add(p.bias[i].channels);
  constexpr size_t kSharedBytes = kThreads / 2 * kSumRow * sizeof(float);  // more than a number of each thread
  const Launch how{dim3(arguments.jobs.blocks()), kThreads, kSharedBytes, s.stream, s.dependent};
  return launch(finish_kernel<E>, how, arguments);
}

}  // namespace gcn::cuda
