// Completes the middle maps where one block of the first stage did not see all of a sum:
//
//   u[p, m] = b[m] + sum over slots and tiles of partial[slot][tile][m][p's place in the tile's extent]
//
// Slots are the splits of the channels and the groups of taps; a tile counts if it has a pixel of p's line within reach of p.
// A thread has one pixel and one octet of middle channels: neighbouring threads read neighbouring floats, and each writes whole
// pieces. Where slots are many, pixels are few, and the slots are shared out among several threads of a pixel. The order of the
// sum is fixed. Bound by reading the workspace, which the first stage has just left in L2.
#pragma once

#include "first_stage.cuh"

namespace gcn::cuda {

constexpr int kCombineThreads = 128;
constexpr int kCombineAtOnce = 2;  // terms of a sum of which a thread has an octet each on their way

// Threads of a pixel: a power of two.
GCN_HOST_DEVICE int combine_log_shares(const CombineParams& p) {
  constexpr int kMost = 4;
  int log = 0;
  for (int i = 0; i < 2; ++i) {
    while (log < kMost && p.u[i] && p.slots[i] > kCombineAtOnce << log) ++log;
  }
  return log;
}

// Adds up the terms of pixel q from every 2^log_shares-th slot, for an octet of middle channels.
GCN_DEVICE void add_slots(float (&sums)[kOctet], const CombineParams& p, int axis, int q, int first_mid, int share,
                          int log_shares) {
  const FirstStageBranch& b = p.branch[axis];
  const int line = b.length * b.interleave, reach = b.overhang, extent = kTilePixels + 2 * b.overhang;
  const int line_first = q / line * line, line_last = line_first + line - 1;
  const int first_tile = max(q - reach, line_first) / kTilePixels, last_tile = min(q + reach, line_last) / kTilePixels;
  const int slots = (p.slots[axis] - share + (1 << log_shares) - 1) >> log_shares;  // of this thread, in each tile
  int row[kOctet];  // of the padding, which has no row, the last channel's: nobody uses its sum
#pragma unroll
  for (int i = 0; i < kOctet; ++i) row[i] = min(first_mid + i, b.mid - 1) * extent;

  const int64_t of_tile = int64_t(b.mid) * extent, of_slots = p.tiles * of_tile << log_shares;
  const float* at_first_slot =
      b.partial + (int64_t(share) * p.tiles + first_tile) * of_tile + (q - first_tile * kTilePixels + b.overhang);
  const float* from = at_first_slot;
  const int terms = slots * (last_tile - first_tile + 1);
  int slot = 0;
#pragma unroll 1
  for (int term = 0; term < terms; term += kCombineAtOnce) {
    float part[kCombineAtOnce][kOctet];
#pragma unroll
    for (int t = 0; t < kCombineAtOnce; ++t) {
#pragma unroll
      for (int i = 0; i < kOctet; ++i) part[t][i] = term + t < terms ? from[row[i]] : 0;
      from += of_slots;
      if (++slot == slots) slot = 0, at_first_slot += of_tile - kTilePixels, from = at_first_slot;
    }
#pragma unroll
    for (int t = 0; t < kCombineAtOnce; ++t) {
#pragma unroll
      for (int i = 0; i < kOctet; ++i) sums[i] += part[t][i];
    }
  }
}

// Adds what the other threads of a pixel have to the first one's.
GCN_DEVICE void add_shares(float (&sums)[kOctet], float* shared, int log_shares) {
  const int tid = int(threadIdx.x), pixels = kCombineThreads >> log_shares;
#pragma unroll
  for (int i = 0; i < kOctet; ++i) store_shared(shared + i * kCombineThreads + tid, sums[i]);
  __syncthreads();
  for (int other = tid + pixels; tid < pixels && other < kCombineThreads; other += pixels) {
#pragma unroll
    for (int i = 0; i < kOctet; ++i) sums[i] += load_shared(shared + i * kCombineThreads + other);
  }
}

// Grid: x = kCombineThreads / 2^log_shares pixels, y = octet of either branch.
template <class E>
__global__ void __launch_bounds__(kCombineThreads) combine_kernel(GCN_PARAMS CombineParams p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  const int octets_l = p.u[0] ? p.branch[0].mid_padded / kOctet : 0;
  const int axis = int(blockIdx.y) >= octets_l, first_mid = (int(blockIdx.y) - axis * octets_l) * kOctet;
  const FirstStageBranch& b = p.branch[axis];
  const int log_shares = combine_log_shares(p), pixels = kCombineThreads >> log_shares;
  const int tid = int(threadIdx.x), share = tid >> (log2_of(kCombineThreads) - log_shares);
  const int q = int(blockIdx.x) * pixels + (tid & (pixels - 1));
  const Position at = line_position(q, axis, b.interleave, p.h, p.w);
  const bool inside = at.n < p.n && at.h < p.h && at.w < p.w;
  wait_for_dependencies();

  float sums[kOctet];
#pragma unroll
  for (int i = 0; i < kOctet; ++i) {
    const int m = first_mid + i;
    sums[i] = p.bias[axis] && m < b.mid && !share ? to_float(static_cast<const E*>(p.bias[axis])[m]) : 0;
  }
  if (inside) add_slots(sums, p, axis, q, first_mid, share, log_shares);
  if (log_shares) add_shares(sums, reinterpret_cast<float*>(shared), log_shares);
  if (!inside || share) return;
  Elements<E, kOctet> u;
#pragma unroll
  for (int i = 0; i < kOctet; ++i) u.value[i] = from_float<E>(first_mid + i < b.mid ? sums[i] : 0);
  const int64_t pixel = (int64_t(at.n) * p.h + at.h) * p.w + at.w;
  *reinterpret_cast<Elements<E, kOctet>*>(static_cast<E*>(p.u[axis]) + pixel * b.mid_padded + first_mid) = u;
}

template <class E>
int launch_combine(const CombineParams& p, Stream s) {
  int octets = 0;
  for (int i = 0; i < 2; ++i) octets += p.u[i] ? p.branch[i].mid_padded / kOctet : 0;
  static_assert(kCombineThreads == kTilePixels);
  constexpr size_t kSharedBytes = kCombineThreads * kOctet * sizeof(float);
  const dim3 grid(unsigned(p.tiles) << combine_log_shares(p), octets);
  return launch(combine_kernel<E>, Launch{grid, kCombineThreads, kSharedBytes, s.stream, s.dependent}, p);
}

}  // namespace gcn::cuda
