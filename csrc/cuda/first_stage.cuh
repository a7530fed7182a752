// First stage of the block: both middle maps from x, as one matrix product per tile with the shift on the output side.
//
//   T[p, (t, m)] = sum_c x[p, c] w[m, c, t]                      a plain product of 128 pixels, never in device memory
//   u[p, m]      = b[m] + sum_t T[p + (t - radius) positions of its line, (t, m)]
//
// Pixels are numbered along the lines (columns of the map for u_l, rows for u_r), so a tap is a step along the tile. Where lines
// do not fit a whole number of times into 128 pixels, a tile also contributes to `overhang` positions before and after it; these
// sums, and those of splits over the channels, go to a workspace that combine.cuh adds up in a fixed order.
//
// Who owns what: a block has one branch, one tile of 128 pixels, one group of middle channels with all their taps (168 columns
// for k = 15) and one split of the channels; a warp has 32 pixels and all columns: 2 x 21 accumulator blocks of 16 x 8.
//
// Shared memory (two blocks on an SM): 3 stages of x [128 pixels][64 B] (or, from NCHW, [64 B / sizeof(E) channels][128 pixels])
// and w [168 columns][64 B], 56832 bytes, and which column blocks each fragment wants; after the main loop, one half of T at a
// time, transposed, [88][132] floats, and the sums u [group_mid][extent].
//
// Pipeline: x and w arrive by cp.async two k-blocks ahead; one barrier a k-block.
//
// Skipped: products of a fragment's 16 pixels with taps that lead out of all their lines. Columns of T are tap by tap, so these
// are whole column blocks before and after the others; short lines alternate in a tile (`interleave`), so that 16 pixels have few
// positions in them. Of 16 x 16 pixels at k = 15, 82 % of the column blocks are left, of 32 x 32 93 %.
//
// Cost of a step (32 bytes of depth, 16-bit): a warp issues 2 ldmatrix.x4 for x and 10 + 1 for w against up to 42 HMMA, in about
// 150 instructions, and 110 a k-block besides; the SM reads 128 * 32 + 4 * 168 * 32 = 25.6 KB of shared memory
// in 336 clocks of HMMA at 1024 FMA a clock (76 B a clock of 128), and 9.5 KB from L2 (28 B a clock): bound by the tensor cores,
// L2 close behind. The epilogue writes and reads T once through shared memory: 2 x 86 KB, about 1.4 k clocks a tile next to 336
// clocks for every 16 channels, which run under the other block's main loop.
#pragma once

#include <type_traits>

#include "fragment.cuh"
#include "tiles.h"

namespace gcn::cuda {

struct Position {
  int n, h, w;
};

// The pixel with number q along the lines of an axis, of which `interleave` neighbours alternate. The last ones may be outside of
// the map, if the plan lets them.
GCN_DEVICE Position line_position(int q, int axis, int interleave, int height, int width) {
  const int length = axis == 0 ? height : width, lines = axis == 0 ? width : height;
  const int bundles = (lines + interleave - 1) / interleave;
  const int inner = q % interleave, position = q / interleave % length, bundle = q / interleave / length;
  const int line = bundle % bundles * interleave + inner;
  return {bundle / bundles, axis == 0 ? position : line, axis == 0 ? line : position};
}

// Where pixel q stands in its line.
GCN_DEVICE int position_in_line(int q, const FirstStageBranch& b) { return q / b.interleave % b.length; }

GCN_DEVICE int floor_div(int a, int b) { return (a >= 0 ? a : a - b + 1) / b; }

template <class M, int kColumnBlocks, bool kChannelsLast>
struct FirstStage {
  using E = Element<M>;
  static constexpr int kStageBytes = first_stage_stage_bytes(kColumnBlocks);
  static constexpr int kScratchColumns = first_stage_scratch_columns(kColumnBlocks);
  static constexpr int kXBytes = kTilePixels * kBlockBytes;
  static constexpr int kBlockDepth = kBlockBytes / int(sizeof(E));  // channels of a k-block
  static constexpr int kPixelPieces = kTilePixels / kPiece<E>;      // pieces of one channel's pixels, from NCHW
  static constexpr int kHalf = (kColumnBlocks + 1) / 2;             // column blocks of one pass of the epilogue

  const FirstStageParams& p;
  const FirstStageBranch& b;
  const int axis, group, tile, split, lane, warp;
  unsigned char* shared;
  // Of the block's group, see run(); and for each of the warp's fragments the column blocks it has to multiply, a bit each.
  int mids = 0, first_tap = 0, taps = 0;

  // Where this thread's four pieces of x come from: the pixel's offset in pieces, or kOutside.
  static constexpr uint32_t kOutside = 0xffffffffu;
  uint32_t x_offset[kChannelsLast ? 4 : 1] = {};

  GCN_DEVICE void find_pixels() {
    const int total = p.n * p.h * p.w;
#pragma unroll
    for (int i = 0; i < (kChannelsLast ? 4 : 1); ++i) {
      const int in_tile = kChannelsLast ? int(threadIdx.x) / 4 + 32 * i : int(threadIdx.x) % kPixelPieces * kPiece<E>;
      const int q = tile * kTilePixels + in_tile;
      x_offset[i] = kOutside;
      if (q < total) {
        const Position at = line_position(q, axis, b.interleave, p.h, p.w);
        x_offset[i] = at.n * p.stride_n + at.h * p.stride_h + (kChannelsLast ? at.w * p.stride_w : at.w / kPiece<E>);
      }
    }
  }

  GCN_DEVICE const unsigned char* x_piece(uint32_t offset) const {
    return static_cast<const unsigned char*>(p.x) + uint64_t(offset) * kPieceBytes;
  }

  // First pixel of fragment i of this warp. At the ends of lines fragments have less to do than in their middles: each warp has
  // one of either kind where a tile is eight lines, and neighbouring tiles deal them out the other way round, because each warp
  // has its own tensor core.
  GCN_DEVICE int fragment_row(int i) const {
    const int place = warp ^ (tile & 1), odd = place & 1;
    return 16 * ((place >> 1) * 4 + (i == 0 ? odd : 3 - odd));
  }

  // Of the taps, those are wanted that lead from one of the fragment's 16 pixels to another place in its line.
  GCN_DEVICE void find_wanted() {
    const int total = p.n * p.h * p.w;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int q = tile * kTilePixels + fragment_row(i) + (lane & 15), position = position_in_line(q, b);
      int low = max(position + b.radius - b.length + 1, first_tap) - first_tap;
      int high = min(position + b.radius + 1, first_tap + taps) - first_tap;
      if (q >= total) low = taps, high = 0;
#pragma unroll
      for (int step = 8; step > 0; step /= 2) low = min(low, shuffle_xor(low, step)), high = max(high, shuffle_xor(high, step));
      const uint32_t before = (1u << (low * mids / 8)) - 1, until = high > low ? (1u << ((high * mids + 7) / 8)) - 1 : 0;
      if (lane == 0) store_shared(wanted() + i, until & ~before);
    }
  }

  GCN_DEVICE uint32_t* wanted() const { return reinterpret_cast<uint32_t*>(shared + kFirstStageStages * kStageBytes) + warp * 2; }

  GCN_DEVICE void load_x(unsigned char* to, int k_block) const {
    const int tid = threadIdx.x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kChannelsLast) {
        const int row = tid / 4 + 32 * i, piece = tid % 4, at = k_block * 4 + piece;
        const bool valid = x_offset[i] != kOutside && at * kPiece<E> < p.c;
        copy_async<16>(to + swizzle_rows(row, piece) * kPieceBytes, valid ? x_piece(x_offset[i] + at) : p.x, valid);
      } else {
        const int depth = tid / kPixelPieces + kThreads / kPixelPieces * i, piece = tid % kPixelPieces;
        const int channel = k_block * kBlockDepth + depth;
        const bool valid = x_offset[0] != kOutside && channel < p.c;
        copy_async<16>(to + swizzle_columns<E>(depth, piece, kPixelPieces) * kPieceBytes,
                       valid ? x_piece(x_offset[0] + channel * p.stride_c) : p.x, valid);
      }
    }
  }

  GCN_DEVICE void load_weights(unsigned char* to, int k_block, int used) const {
    constexpr int kPieces = 8 * kColumnBlocks * 4;
    const int64_t block = int64_t(group) * p.k_blocks + k_block;
    const unsigned char* from = static_cast<const unsigned char*>(b.weights) + block * (kPieces * kPieceBytes);
#pragma unroll
    for (int i = threadIdx.x; i < kPieces && i < used * 32; i += kThreads)
      copy_async<16>(to + i * kPieceBytes, from + i * kPieceBytes, true);
  }

  GCN_DEVICE void multiply(float (&acc)[2][kColumnBlocks][4], const unsigned char* stage) const {
    const unsigned char* weights = stage + kXBytes;
    const uint32_t wanted[2] = {broadcast(load_shared(this->wanted())), broadcast(load_shared(this->wanted() + 1))};
#pragma unroll 1  // what both steps have to keep at a time would not fit the registers
    for (int step = 0; step < 2; ++step) {
      uint32_t a[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (kChannelsLast) {
          ldmatrix_x4(a[i], stage + swizzle_rows(fragment_row(i) + a_row(lane), step * 2 + a_half(lane)) * kPieceBytes);
        } else {
          load_a_columns<E>(a[i], stage, fragment_row(i), step * kDepth<E>, kPixelPieces, lane);
        }
        round_operand<M>(a[i]);
      }
#pragma unroll
      for (int j = 0; j + 1 < kColumnBlocks; j += 2) {
        uint32_t w[4];
        ldmatrix_x4(w, weights + swizzle_rows(j * 8 + b_row(lane), step * 2 + b_half(lane)) * kPieceBytes);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (wanted[i] >> j & 3) {
            mma(acc[i][j], a[i], {w[0], w[1]}, M{});
            mma(acc[i][j + 1], a[i], {w[2], w[3]}, M{});
          }
        }
      }
      if constexpr (kColumnBlocks % 2) {
        constexpr int j = kColumnBlocks - 1;
        uint32_t w[2];
        ldmatrix_x2(w, weights + swizzle_rows(j * 8 + (lane & 7), step * 2 + b_half(lane)) * kPieceBytes);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (wanted[i] >> j & 1) mma(acc[i][j], a[i], w, M{});
        }
      }
    }
  }

  // One half of T, transposed: scratch[column][pixel].
  template <int kPass>
  GCN_DEVICE void store_half(const float (&acc)[2][kColumnBlocks][4], float* scratch) const {
#pragma unroll
    for (int j = kPass * kHalf; j < kColumnBlocks && j < (kPass + 1) * kHalf; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int column = (j - kPass * kHalf) * 8 + c_column(lane, e), row = fragment_row(i) + c_row(lane, e);
          store_shared(scratch + column * kScratchRow + row, acc[i][j][e]);
        }
      }
    }
  }

  // Adds the taps whose columns are in this pass's half. Each thread has its own positions, in every pass the same.
  GCN_DEVICE void add_taps(int pass, const float* scratch, float* sums) const {
    const int total = p.n * p.h * p.w, extent = kTilePixels + 2 * b.overhang, g = b.interleave;
    // Column t * mids + m is in the second half from t = `half` on, or one tap earlier for the last of the m.
    constexpr int kColumns = kHalf * 8;
    const int half = (kColumns + mids - 1) / mids, last = kColumns - (half - 1) * mids;
    for (int e = int(threadIdx.x) - b.overhang; e < kTilePixels + b.overhang; e += kThreads) {
      const int q = tile * kTilePixels + e;
      if (q < 0 || q >= total) continue;
      // Taps whose source is in this position's line and in this tile.
      const int position = position_in_line(q, b);
      const int low = max(b.radius - position, b.radius - floor_div(e, g));
      const int high = min(b.length - position + b.radius, b.radius + floor_div(kTilePixels - 1 - e, g) + 1);
      const float* source = scratch + e + g * (first_tap - b.radius) - pass * kColumns * kScratchRow;
      for (int m = 0; m < mids; ++m) {
        const int middle = half - (m >= last);
        const int from = max(low - first_tap, pass == 0 ? 0 : middle), to = min(high - first_tap, pass == 0 ? middle : taps);
        float sum = load_shared(sums + m * extent + e + b.overhang);
#pragma unroll 4
        for (int t = from; t < to && t < taps; ++t) sum += load_shared(source + (t * mids + m) * kScratchRow + t * g);
        store_shared(sums + m * extent + e + b.overhang, sum);
      }
    }
  }

  GCN_DEVICE void write_u(const float* sums, int first_mid) const {
    const int total = p.n * p.h * p.w, width = first_mid + mids == b.mid ? b.mid_padded - first_mid : mids;
    for (int i = threadIdx.x; i < kTilePixels * width; i += kThreads) {
      const int m = i % width, e = i / width, q = tile * kTilePixels + e;
      if (q >= total) break;
      const Position at = line_position(q, axis, b.interleave, p.h, p.w);
      const int64_t pixel = (int64_t(at.n) * p.h + at.h) * p.w + at.w;
      float value = 0;
      if (m < mids) {
        value = load_shared(sums + m * kTilePixels + e);
        if (b.bias) value += to_float(static_cast<const E*>(b.bias)[first_mid + m]);
      }
      static_cast<E*>(b.u)[pixel * b.mid_padded + first_mid + m] = from_float<E>(value);
    }
  }

  GCN_DEVICE void write_partial(const float* sums, int slot, int first_mid) const {
    const int extent = kTilePixels + 2 * b.overhang;
    float* to = b.partial + ((int64_t(slot) * p.tiles + tile) * b.mid + first_mid) * extent;
    for (int i = threadIdx.x; i < mids * extent; i += kThreads) to[i] = load_shared(sums + i);
  }

  GCN_DEVICE void run() {
    find_pixels();
    const int mid_group = group / b.tap_groups, tap_group = group % b.tap_groups;
    const int first_mid = mid_group * b.group_mid;
    mids = min(b.group_mid, b.mid - first_mid);
    first_tap = tap_group * b.group_taps, taps = min(b.group_taps, b.taps - first_tap);
    find_wanted();
    const int used = (mids * taps + 7) / 8;  // column blocks with weights in them
    const int first = int(int64_t(p.k_blocks) * split / p.splits), last = int(int64_t(p.k_blocks) * (split + 1) / p.splits);
    float acc[2][kColumnBlocks][4] = {};
    const auto stage_of = [&](int k_block) { return shared + (k_block - first) % kFirstStageStages * kStageBytes; };
    const auto load = [&](int k_block, bool with_x) {
      if (k_block < last) {
        if (with_x) load_x(stage_of(k_block), k_block);
        load_weights(stage_of(k_block) + kXBytes, k_block, used);
      }
      copy_commit();
    };
    // While the launch before packs the weights, x is already on its way, unless that launch packs x as well.
    const int ahead = min(kFirstStageStages - 1, last - first);
    for (int i = 0; i < ahead && p.x_given; ++i) load_x(stage_of(first + i), first + i);
    wait_for_dependencies();  // the packed weights, and maybe x
    for (int i = 0; i < kFirstStageStages - 1; ++i) load(first + i, !p.x_given);
    for (int k_block = first; k_block < last; ++k_block) {
      copy_wait<kFirstStageStages - 2>();
      __syncthreads();
      load(k_block + kFirstStageStages - 1, true);
      multiply(acc, stage_of(k_block));
    }
    copy_wait<0>();
    __syncthreads();

    float* scratch = reinterpret_cast<float*>(shared);
    float* sums = scratch + kScratchColumns * kScratchRow;
    for (int i = threadIdx.x; i < mids * (kTilePixels + 2 * b.overhang); i += kThreads) store_shared(sums + i, 0.0f);
    store_half<0>(acc, scratch);
    __syncthreads();
    add_taps(0, scratch, sums);
    __syncthreads();
    store_half<1>(acc, scratch);
    __syncthreads();
    add_taps(1, scratch, sums);
    __syncthreads();
    if (b.u) {
      write_u(sums, first_mid);
    } else {
      write_partial(sums, split * b.tap_groups + tap_group, first_mid);
    }
  }
};

// Grid: x = tile * groups of both branches + group, so that blocks which read the same x run side by side; y = split.
template <class M, int kColumnBlocks, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads, 2) first_stage_kernel(GCN_PARAMS FirstStageParams p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  const int items = p.branch[0].groups + p.branch[1].groups, item = int(blockIdx.x) % items;
  const int axis = item >= p.branch[0].groups, group = axis ? item - p.branch[0].groups : item;
  FirstStage<M, kColumnBlocks, kChannelsLast>{
      p,     p.branch[axis], axis, group, int(blockIdx.x) / items, int(blockIdx.y), int(threadIdx.x) % 32, int(threadIdx.x) / 32,
      shared}
      .run();
}

template <class M, int kColumnBlocks>
int launch_first_stage(bool channels_last, const FirstStageParams& p, int shared_bytes, Stream s) {
  const int items = p.branch[0].groups + p.branch[1].groups;
  const Launch how{dim3(unsigned(p.tiles) * items, p.splits), kThreads, size_t(shared_bytes), s.stream, s.dependent};
  return channels_last ? launch(first_stage_kernel<M, kColumnBlocks, true>, how, p)
                       : launch(first_stage_kernel<M, kColumnBlocks, false>, how, p);
}

template <class M>
int launch_first_stage(int column_blocks, bool channels_last, const FirstStageParams& p, int shared_bytes, Stream s) {
  if (column_blocks == 8) return launch_first_stage<M, 8>(channels_last, p, shared_bytes, s);
  if constexpr (!std::is_same_v<M, Fp32>) {  // as first_stage_compiled() says
    if (column_blocks == 16) return launch_first_stage<M, 16>(channels_last, p, shared_bytes, s);
    if (column_blocks == 21) return launch_first_stage<M, 21>(channels_last, p, shared_bytes, s);
    if constexpr (!kIsTf32<M>) {
      if (column_blocks == 22) return launch_first_stage<M, 22>(channels_last, p, shared_bytes, s);
    }
  }
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
