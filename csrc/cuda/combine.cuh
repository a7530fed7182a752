// Completes the middle maps where one block of the first stage did not see all of a sum:
//
//   u[p, m] = b[m] + sum over slots and tiles of partial[slot][tile][m][p's place in the tile's extent]
//
// Slots are the splits of the channels and the groups of taps; a tile counts if it has a pixel of p's line within reach of p.
// A thread has one pixel and one octet of middle channels: neighbouring threads read neighbouring floats, and each writes whole
// pieces. The order of the sum is fixed. Bound by reading the workspace, which the first stage has just left in L2.
#pragma once

#include "first_stage.cuh"

namespace gcn::cuda {

constexpr int kCombineThreads = 128;

// Grid: x = 128 pixels, y = octet of either branch.
template <class E>
__global__ void __launch_bounds__(kCombineThreads) combine_kernel(GCN_PARAMS CombineParams p) {
  launch_dependents();
  const int octets_l = p.u[0] ? p.branch[0].mid_padded / kOctet : 0;
  const int axis = int(blockIdx.y) >= octets_l, first_mid = (int(blockIdx.y) - axis * octets_l) * kOctet;
  const FirstStageBranch& b = p.branch[axis];
  const int q = int(blockIdx.x) * kCombineThreads + int(threadIdx.x);
  wait_for_dependencies();
  const Position at = line_position(q, axis, b.interleave, p.h, p.w);
  if (at.n >= p.n || at.h >= p.h || at.w >= p.w) return;

  const int line = b.length * b.interleave, reach = b.overhang, extent = kTilePixels + 2 * b.overhang;
  const int line_first = q / line * line, line_last = line_first + line - 1;
  const int first_tile = max(q - reach, line_first) / kTilePixels, last_tile = min(q + reach, line_last) / kTilePixels;
  E* u = static_cast<E*>(p.u[axis]) + ((int64_t(at.n) * p.h + at.h) * p.w + at.w) * b.mid_padded + first_mid;
  for (int i = 0; i < kOctet; ++i) {
    const int m = first_mid + i;
    float sum = 0;
    if (m < b.mid) {
      for (int slot = 0; slot < p.slots[axis]; ++slot) {
        for (int tile = first_tile; tile <= last_tile; ++tile) {
          const int64_t row = (int64_t(slot) * p.tiles + tile) * b.mid + m;
          sum += b.partial[row * extent + (q - tile * kTilePixels + b.overhang)];
        }
      }
      if (p.bias[axis]) sum += to_float(static_cast<const E*>(p.bias[axis])[m]);
    }
    u[i] = from_float<E>(sum);
  }
}

template <class E>
int launch_combine(const CombineParams& p, Stream s) {
  int octets = 0;
  for (int i = 0; i < 2; ++i) octets += p.u[i] ? p.branch[i].mid_padded / kOctet : 0;
  static_assert(kCombineThreads == kTilePixels);
  return launch(combine_kernel<E>, Launch{dim3(p.tiles, octets), kCombineThreads, 0, s.stream, s.dependent}, p);
}

}  // namespace gcn::cuda
