// The end of the first stage's tiles: T leaves the accumulators through shared memory, a half of its columns at a time, and each
// position of the tile adds up its taps' columns. See first_stage.cuh.
#pragma once

#include "../fragment.cuh"
#include "tiles.h"

namespace gcn::cuda {

template <int kColumnBlocks>
struct FirstStageTaps {
  static constexpr int kHalf = (kColumnBlocks + 1) / 2;  // column blocks of one pass
  static constexpr int kScratchColumns = first_stage_scratch_columns(kColumnBlocks);

  const FirstStageParams& p;
  const FirstStageBranch& b;
  const int tile, lane;
  const int mids, first_tap, taps, shift;  // of the block's group, as FirstStage has them

  GCN_DEVICE static float* sums_behind(float* scratch) { return scratch + kScratchColumns * kScratchRow; }

  // One half of T, transposed: scratch[column][pixel].
  template <int kPass>
  GCN_DEVICE void store_half(const float (&acc)[2][kColumnBlocks][4], const int (&rows)[2], float* scratch) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float* own = scratch + c_column(lane, 0) * kScratchRow + rows[i] + c_row(lane, 0);
#pragma unroll
      for (int j = kPass * kHalf; j < kColumnBlocks && j < (kPass + 1) * kHalf; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          store_shared(own + ((j - kPass * kHalf) * 8 + (e & 1)) * kScratchRow + (e >> 1) * 8, acc[i][j][e]);
        }
      }
    }
  }

  // Of one position of the tile or its overhang: the taps whose source is in the position's line and in this tile, counted from
  // the group's first; and where in the scratch its sources are, for tap 0 and middle channel 0 of the group.
  struct Reach {
    int low, high, middle;  // see add_taps_of()
    const float* source;
  };
  GCN_DEVICE Reach reach_of(int e, int position, int middle, const float* scratch) const {
    const int radius = b.radius - first_tap, before = e >> shift, after = (kTilePixels - 1 - e) >> shift;
    return {radius - min(position, before), radius + min(b.length - 1 - position, after) + 1, middle,
            scratch + e - radius * (1 << shift)};
  }

  // Adds the taps whose columns are in this pass's half to kCount middle channels from first_m on, at one position. Column
  // t * mids + m is in the second half from tap `middle` on, or one tap later for the first `rest` of the m.
  template <int kPass, int kCount>
  GCN_DEVICE void add_taps_of(float (&sum)[kCount], int first_m, const Reach& r) const {
    constexpr int kColumns = kHalf * 8;
    const int middle = r.middle, rest = kColumns - middle * mids, apart = mids * kScratchRow + (1 << shift);
    const float* const source = r.source + (first_m - kPass * kColumns) * kScratchRow;
    const auto add_middle = [&] {
      const bool inside = middle >= r.low && middle < r.high && middle < taps;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (inside && (kPass == 0) == (first_m + i < rest)) sum[i] += load_shared(source + middle * apart + i * kScratchRow);
      }
    };
    if (kPass == 1) add_middle();
    const int end = kPass == 0 ? min(middle, taps) : taps;
    int t = kPass == 0 ? 0 : middle + 1;
    const float* next = source + t * apart;
    constexpr int kTogether = 4;  // taps whose loads are in flight at a time
#pragma unroll 1
    for (; t < end; t += kTogether) {
      float value[kTogether][kCount];
#pragma unroll
      for (int k = 0; k < kTogether; ++k, next += apart) {
        const bool inside = t + k >= r.low && t + k < r.high && t + k < end;
#pragma unroll
        for (int i = 0; i < kCount; ++i) value[k][i] = inside ? load_shared(next + i * kScratchRow) : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) sum[i] += value[k][i];
      }
    }
    if (kPass == 0 && rest > 0) add_middle();
  }

  // The first pass leaves its sums in shared memory, and so does the second one if they are complete; else they go to `partial`.
  template <int kPass, int kCount>
  GCN_DEVICE void add_some_taps(int first_m, const Reach& r, float* sums, int row, float* partial, int extent) const {
    float sum[kCount] = {};
    sums += first_m * row;
    if (kPass == 1) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) sum[i] = load_shared(sums + i * row);
    }
    add_taps_of<kPass, kCount>(sum, first_m, r);
    if (kPass == 1 && partial) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) partial[int64_t(first_m + i) * extent] = sum[i];
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) store_shared(sums + i * row, sum[i]);
    }
  }

  // Adds the taps whose columns are in this pass's half. Each thread has its own positions, in every pass the same.
  template <int kPass>
  GCN_DEVICE void add_taps(const float* scratch, float* sums, float* partial) const {
    const int total = p.n * p.h * p.w, extent = kTilePixels + 2 * b.overhang, row = first_stage_sums_row(extent);
    const int middle = kHalf * 8 / mids;
    for (int at = threadIdx.x; at < extent; at += kThreads) {
      const int e = at - b.overhang, q = tile * kTilePixels + e;
      if (q < 0 || q >= total) continue;
      const Reach r = reach_of(e, int(unsigned(q >> shift) % unsigned(b.length)), middle, scratch);
      float* const to = partial ? partial + at : nullptr;
      int m = 0;
#pragma unroll 1
      for (; m + 4 <= mids; m += 4) add_some_taps<kPass, 4>(m, r, sums + at, row, to, extent);
      if (mids - m == 3) add_some_taps<kPass, 3>(m, r, sums + at, row, to, extent);
      if (mids - m == 2) add_some_taps<kPass, 2>(m, r, sums + at, row, to, extent);
      if (mids - m == 1) add_some_taps<kPass, 1>(m, r, sums + at, row, to, extent);
    }
  }

  // `rows`: the first pixels of this warp's two fragments. Sums are in `sums` or, if they are given, `partial`.
  GCN_DEVICE void add_all(const float (&acc)[2][kColumnBlocks][4], const int (&rows)[2], float* scratch, float* sums,
                          float* partial) const {
    store_half<0>(acc, rows, scratch);
    __syncthreads();
    add_taps<0>(scratch, sums, partial);
    __syncthreads();
    store_half<1>(acc, rows, scratch);
    __syncthreads();
    add_taps<1>(scratch, sums, partial);
  }
};

}  // namespace gcn::cuda
