// The end of an item of the first stage for Hopper: what the taps of a group have is added up, and written.
//
// Through shared memory, kEndPositions of the products' positions at a time, as [row of weights][position][line]. So many
// positions, less the other taps of a group, of u are complete. Rows are an odd number of positions apart: the four rows and
// eight lines that half a warp stores fall into different banks.
#pragma once

#include "../../fragment.cuh"
#include "hopper_device.cuh"
#include "hopper_kernels.h"
#include "hopper_tiles.h"

namespace gcn::cuda {

struct FirstStageUnit {
  int axis, group, pair, split, first, last;  // k-blocks
};

struct FirstStageItem {
  int n, line, first, outputs;  // map, first line of the bundle, first position, and how many
  bool valid;
};

// D, four numbers a position. `early` is what groups of taps that start in front of the line add to its first positions.
struct FirstStageSums {
  float low[4 * kLowPositions] = {}, high[4 * kHighPositions] = {}, early[4 * kEarlyPositions] = {};
};

struct FirstStageConsumer {
  int side, thread, lane, warp;  // of the two warpgroups; within the warpgroup
};

template <class M>
struct HopperFirstStageEnd {
  using E = Element<M>;

  const HopperFirstStage& p;
  const FirstStageBranch& b;
  const FirstStageConsumer& c;
  const FirstStageUnit& u;
  const FirstStageItem& item;
  float* const sums;  // of the warpgroup, in shared memory
  const int first_mid = u.group * b.group_mid, mids = min(b.group_mid, b.mid - first_mid);

  // Positions of an item that are complete, of which the first is the first in shared memory.
  struct Segment {
    int from, to;
  };
  static constexpr int kEndRow = kEndPositions * kBundle;

  // Those of a part's positions that `stored` has a bit for; `to` is where its first would go.
  template <int kSize>
  GCN_DEVICE void store_part(const float (&part)[kSize], float* to, uint32_t stored, const float (&bias)[2]) const {
#pragma unroll
    for (int i = 0; i < kSize / 4; ++i) {
      if (!(stored >> i & 1)) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* own = part + 4 * i + 2 * half;
        store_shared(reinterpret_cast<float2*>(to + half * 8 * kEndRow + i * kBundle),
                     make_float2(own[0] + bias[half], own[1] + bias[half]));
      }
    }
  }
  GCN_DEVICE void store_positions(const FirstStageSums& d, float* to, int from, bool high, const float (&bias)[2]) const {
    const uint64_t stored = uint64_t((1 << kEndPositions) - 1) << from;
    store_part(d.low, to - from * kBundle, uint32_t(stored), bias);
    if (high) store_part(d.high, to + (kLowPositions - from) * kBundle, uint32_t(stored >> kLowPositions), bias);
  }

  // What the taps of a group have of kCount middle channels, of which the first `count` count and may be all; `from` is where the
  // first channel has its first tap.
  template <bool kAll, int kCount>
  GCN_DEVICE void add_taps(float (&of)[kCount], const float* from, int count) const {
    const int next_tap = mids * kEndRow + kBundle;
    const auto load = [&](int i) { return load_shared(from + (kAll ? i : min(i, count - 1)) * kEndRow); };
#pragma unroll
    for (int i = 0; i < kCount; ++i) of[i] = load(i);
#pragma unroll 1
    for (int tap = 1; tap < b.group_taps; ++tap) {
      from += next_tap;
      float values[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) values[i] = load(i);
#pragma unroll
      for (int i = 0; i < kCount; ++i) of[i] += values[i];
    }
#pragma unroll
    for (int i = 0; i < kCount && !kAll; ++i) of[i] = i < count ? of[i] : 0.0f;
  }
  template <int kCount>
  GCN_DEVICE void sum_taps(float (&of)[kCount], const float* from, int count) const {
    if (count >= kCount) {
      add_taps<true>(of, from, count);
    } else {
      add_taps<false>(of, from, count);
    }
  }

  // A thread has one line, and one position of it or every 16th.
  GCN_DEVICE void write_u(const Segment& segment) const {
    struct alignas(kPieceBytes) Piece {
      E of[kPiece<E>];
    };
    const int own_line = c.thread % kBundle, line = item.line + own_line;
    const int h = p.stage.h, w = p.stage.w, mid_padded = b.mid_padded, pieces = (mids + kOctet - 1) / kOctet * kOctet;
    if (line >= (u.axis == 0 ? w : h)) return;
    const int64_t first_pixel = int64_t(item.n) * h * w + (u.axis == 0 ? item.first * w + line : line * w + item.first);
    E* const out = static_cast<E*>(b.u) + first_pixel * mid_padded + first_mid;
    const int step = (u.axis == 0 ? w : 1) * mid_padded;
    for (int position = segment.from + c.thread / kBundle; position < segment.to; position += kGroupSize / kBundle) {
      E* to = out + int64_t(position) * step;
      const float* from = sums + (position - segment.from) * kBundle + own_line;
      for (int first = 0; first < pieces; first += kPiece<E>) {
        float values[kPiece<E>];
        sum_taps(values, from + first * kEndRow, mids - first);
        Piece piece;
#pragma unroll
        for (int k = 0; k < kPiece<E>; ++k) piece.of[k] = from_float<E>(values[k]);
        *reinterpret_cast<Piece*>(to + first) = piece;
      }
    }
  }

  // Pixels are numbered along the lines of a bundle, as combine.cuh reads them.
  GCN_DEVICE void write_partial(const Segment& segment) const {
    const int64_t bundle = int64_t(item.n) * p.bundles[u.axis] + item.line / kBundle;
    const int64_t first = (bundle * b.length + item.first) * kBundle;
    for (int pixel = segment.from * kBundle + c.thread; pixel < segment.to * kBundle; pixel += kGroupSize) {
      const int64_t q = first + pixel, row = (u.split * int64_t(p.stage.tiles) + q / kTilePixels) * b.mid + first_mid;
      float* to = b.partial + row * kTilePixels + q % kTilePixels;
      const float* from = sums + (pixel - segment.from * kBundle);
      for (int first = 0; first < mids; first += kOctet) {
        float values[kOctet];
        sum_taps(values, from + first * kEndRow, mids - first);
#pragma unroll
        for (int k = 0; k < kOctet; ++k) {
          if (first + k < mids) to[(first + k) * kTilePixels] = values[k];
        }
      }
    }
  }

  // What is added to a lane's two rows: the bias to the first tap's. A sum that is completed elsewhere has none yet.
  GCN_DEVICE void find_bias(float (&bias)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = c.warp * 16 + c_row(c.lane, 2 * half);
      const bool has = b.u && b.bias && m < mids;
      bias[half] = has ? to_float(static_cast<const E*>(b.bias)[first_mid + m]) : 0.0f;
    }
  }

  GCN_DEVICE void finish(const FirstStageSums& d) const {
    const bool high = p.outputs[u.axis] + b.group_taps - 1 > kLowPositions;
    float bias[2];
    find_bias(bias);
    float* const own = sums + (c.warp * 16 + c_row(c.lane, 0)) * kEndRow + c_column(c.lane, 0);
    const int step = kEndPositions - b.group_taps + 1;
#pragma unroll 1
    for (int from = 0; from < item.outputs; from += step) {
      const Segment segment{from, min(from + step, item.outputs)};
      store_positions(d, own, from, high, bias);
      group_barrier(1 + c.side, kGroupSize);
      if (b.u) {
        write_u(segment);
      } else {
        write_partial(segment);
      }
      group_barrier(1 + c.side, kGroupSize);  // before the next positions take the place
    }
  }
};

}  // namespace gcn::cuda
