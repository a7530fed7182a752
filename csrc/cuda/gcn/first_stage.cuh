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
// Shared memory (two blocks on an SM): where each pixel stands in x and u, and which column blocks each fragment wants, 1152
// bytes; 3 stages of x [128 pixels][64 B] (or, from NCHW, [64 B / sizeof(E) channels][128 pixels]) and w [168 columns][64 B],
// 56832 bytes; instead of them after the main loop, one half of T at a time, transposed, [88][132] floats, and the sums u
// [group_mid][extent, padded].
//
// Pipeline: x and w arrive by cp.async two k-blocks ahead; one barrier a k-block.
//
// Skipped: products of a fragment's 16 pixels with taps that lead out of all their lines. Columns of T are tap by tap, so these
// are whole column blocks before and after the others; short lines alternate in a tile (`interleave`), so that 16 pixels have few
// positions in them. Of 16 x 16 pixels at k = 15, 82 % of the column blocks are left, of 32 x 32 93 %.
//
// Weights come packed (prepare.cuh), or, of single images, as they are given, where their channels are whole pieces: then each
// column's pieces are copied from where they stand, by a table of 672 bytes behind the stages. There a block whose channels are
// a split leaves its sums in the workspace and takes a ticket; the block with a tile's last one adds all splits, in their order,
// and writes u. That is 16 x 5.6 KB to read for eleven middle channels in 16 splits, instead of a launch.
//
// Cost of a step (32 bytes of depth, 16-bit): a warp issues 2 ldmatrix.x4 for x and 10 + 1 for w against up to 42 HMMA, in 75
// instructions where both its fragments want nearly all column blocks, which is code without questions, else in 93; and about
// 100 a k-block besides. The SM reads 128 * 32 + 4 * 168 * 32 = 25.6 KB of shared memory in 336 clocks of HMMA at 1024 FMA a
// clock (76 B a clock of 128), and 9.5 KB from L2 (28 B a clock): bound by the tensor cores, L2 close behind, if there are warps
// enough. The epilogue writes and reads T once through shared memory, 2 x 86 KB, in about 2000 instructions a warp: all loads
// of four taps and four middle channels are in flight together, and what is outside of a line counts as zero. Setting out takes
// 600 more.
#pragma once

#include <type_traits>

#include "../fragment.cuh"
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

// kPacked: weights come from prepare.cuh; else as they are given, see UnpackedFirstStage.
template <class M, int kColumnBlocks, bool kChannelsLast, bool kPacked = true>
struct FirstStage {
  using E = Element<M>;
  static constexpr int kStageBytes = first_stage_stage_bytes(kColumnBlocks);
  static constexpr int kScratchColumns = first_stage_scratch_columns(kColumnBlocks);
  static constexpr int kXBytes = kTilePixels * kBlockBytes;
  static constexpr int kBlockDepth = kBlockBytes / int(sizeof(E));  // channels of a k-block
  static constexpr int kPixelPieces = kTilePixels / kPiece<E>;      // pieces of one channel's pixels, from NCHW
  static constexpr int kHalf = (kColumnBlocks + 1) / 2;             // column blocks of one pass of the epilogue
  static constexpr int kWeightPieces = 8 * kColumnBlocks * 4;       // of a k-block
  static constexpr int kCopyBytes = kThreads * kPieceBytes;         // from one of a thread's pieces to the next, in a stage
  // Column blocks that straight code multiplies without asking, where a warp wants them all. Groups may use one or two less.
  static constexpr int kSure = kColumnBlocks - 2;

  const FirstStageParams& p;
  const FirstStageBranch& b;
  const int axis, group, tile, split, lane, warp;
  unsigned char* shared;
  const UnpackedFirstStage* const given = nullptr;
  // Of the block's group, see run(); the logarithm of `interleave`.
  int mids = 0, first_tap = 0, taps = 0, shift = 0;
  static constexpr uint32_t kOutside = 0xffffffffu;

  // --- shared memory: what is known of each pixel; the column blocks that each fragment wants, a bit each; the stages

  struct Pixel {
    uint32_t offset;  // in x, in pieces, or kOutside
    int index;        // in u, or -1
  };
  GCN_DEVICE Pixel* pixels() const { return reinterpret_cast<Pixel*>(shared); }
  GCN_DEVICE uint32_t* masks() const { return reinterpret_cast<uint32_t*>(pixels() + kTilePixels); }
  GCN_DEVICE unsigned char* stages() const { return shared + kFirstStageTableBytes; }

  // Unpacked: of each column, where its weights begin, in pieces, or kOutside.
  GCN_DEVICE uint32_t* columns() const { return reinterpret_cast<uint32_t*>(stages() + kFirstStageStages * kStageBytes); }

  GCN_DEVICE void find_columns(int first_mid) const {
    const StridedWeights& w = given->weights[axis];
    const uint32_t next_mid = uint32_t(w.output_stride / kPiece<E>), next_tap = uint32_t(w.tap_stride / kPiece<E>);
    for (int column = threadIdx.x; column < 8 * kColumnBlocks; column += kThreads) {
      const int tap = column / mids, m = column - tap * mids;
      const uint32_t at = uint32_t(first_mid + m) * next_mid + uint32_t(given->skipped[axis] + tap) * next_tap;
      store_shared(columns() + column, tap < taps ? at : kOutside);
    }
  }

  // Each thread finds out about one pixel, and with the 15 others of its fragment which taps lead from one of them to another
  // place in its line.
  GCN_DEVICE void find_pixels() {
    const int q = tile * kTilePixels + int(threadIdx.x);
    const bool inside = q < p.n * p.h * p.w;
    Pixel pixel{kOutside, -1};
    int low = taps, high = 0;
    if (inside) {
      const Position at = line_position(q, axis, b.interleave, p.h, p.w);
      const int position = axis == 0 ? at.h : at.w;
      pixel.offset = at.n * p.stride_n + at.h * p.stride_h + (kChannelsLast ? at.w * p.stride_w : at.w / kPiece<E>);
      pixel.index = (at.n * p.h + at.h) * p.w + at.w;
      low = max(position + b.radius - b.length + 1, first_tap) - first_tap;
      high = min(position + b.radius + 1, first_tap + taps) - first_tap;
    }
    store_shared(pixels() + threadIdx.x, pixel);
#pragma unroll
    for (int step = 8; step > 0; step /= 2) low = min(low, shuffle_xor(low, step)), high = max(high, shuffle_xor(high, step));
    const uint32_t before = (1u << (low * mids / 8)) - 1, until = high > low ? (1u << ((high * mids + 7) / 8)) - 1 : 0;
    if (lane % 16 == 0) store_shared(masks() + threadIdx.x / 16, until & ~before);
    __syncthreads();  // pixels and masks are there
  }

  // First pixel of fragment i of this warp. At the ends of lines fragments have less to do than in their middles: each warp has
  // one of either kind where a tile is eight lines, and neighbouring tiles deal them out the other way round, because each warp
  // has its own tensor core.
  GCN_DEVICE int fragment_row(int i) const {
    const int place = warp ^ (tile & 1), odd = place & 1;
    return 16 * ((place >> 1) * 4 + (i == 0 ? odd : 3 - odd));
  }

  // What this thread copies: pieces of x and of the weights that stand kCopyBytes apart in a stage. Found once, and kept.
  struct Copies {
    const unsigned char *x, *weights;          // of the k-block to come; x of pixel 0
    uint32_t x_offset[kChannelsLast ? 4 : 1];  // of its pixels, in pieces
    uint32_t inside;                           // which of these there are, a bit each
    int x_to;                                  // in a stage
    int used;                                  // column blocks with weights in them
  };
  GCN_DEVICE Copies find_copies(int first) const {
    const int tid = threadIdx.x;
    Copies c{
        static_cast<const unsigned char*>(p.x), static_cast<const unsigned char*>(b.weights), {}, 0, 0, (mids * taps + 7) / 8};
    if constexpr (kPacked) {
      c.weights += (int64_t(group) * p.k_blocks + first) * (kWeightPieces * kPieceBytes) + tid * kPieceBytes;
    } else {
      c.weights = static_cast<const unsigned char*>(given->weights[axis].data) + int64_t(first) * kBlockBytes;
    }
    if (kChannelsLast) c.x += int64_t(first) * kBlockBytes;
#pragma unroll
    for (int i = 0; i < (kChannelsLast ? 4 : 1); ++i) {
      const int in_tile = kChannelsLast ? tid / 4 + 32 * i : tid % kPixelPieces * kPiece<E>;
      const uint32_t offset = load_shared(&pixels()[in_tile].offset);
      if (offset == kOutside) continue;
      c.x_offset[i] = offset + (kChannelsLast ? tid % 4 : 0);
      c.inside |= 1u << i;
    }
    c.x_to = kept((kChannelsLast ? swizzle_rows(tid / 4, tid % 4)
                                 : swizzle_columns<E>(tid / kPixelPieces, tid % kPixelPieces, kPixelPieces)) *
                  kPieceBytes);
    c.inside = kept(c.inside);
    return c;
  }

  GCN_DEVICE void load_x(unsigned char* to, int k_block, Copies& c) const {
    to += c.x_to;
    const unsigned char* const start = static_cast<const unsigned char*>(p.x);
    if constexpr (kChannelsLast) {
      if (c.inside == 15 && (k_block + 1) * kBlockDepth <= p.c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) copy_async<16>(to + i * kCopyBytes, c.x + uint64_t(c.x_offset[i]) * kPieceBytes, true);
      } else {
        const bool within = k_block * kBlockDepth + int(threadIdx.x) % 4 * kPiece<E> < p.c;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool valid = within && (c.inside >> i & 1);
          copy_async<16>(to + i * kCopyBytes, valid ? c.x + uint64_t(c.x_offset[i]) * kPieceBytes : start, valid);
        }
      }
      c.x += kBlockBytes;
    } else {
      const int channel = k_block * kBlockDepth + int(threadIdx.x) / kPixelPieces;
      const uint32_t offset = c.x_offset[0] + channel * p.stride_c, apart = kThreads / kPixelPieces * p.stride_c;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool valid = c.inside && channel + kThreads / kPixelPieces * i < p.c;
        copy_async<16>(to + i * kCopyBytes, start + uint64_t(valid ? offset + i * apart : 0) * kPieceBytes, valid);
      }
    }
  }

  // Weights come four column blocks at a time; a rest of less than four is for the first threads.
  GCN_DEVICE void load_weights(unsigned char* to, Copies& c) const {
    constexpr int kWhole = kWeightPieces / kThreads, kRest = kWeightPieces % kThreads;
    const int tid = threadIdx.x;
    to += tid * kPieceBytes;
    const auto copy = [&](int i) { copy_async<16>(to + i * kCopyBytes, c.weights + i * kCopyBytes, true); };
    if (c.used > 4 * (kWhole - 1)) {
#pragma unroll
      for (int i = 0; i < kWhole; ++i) copy(i);
    } else {
#pragma unroll
      for (int i = 0; i < kWhole - 1; ++i) {
        if (4 * i < c.used) copy(i);
      }
    }
    if (kRest > 0 && 4 * kWhole < c.used && tid < kRest) copy(kWhole);
    c.weights += kWeightPieces * kPieceBytes;
  }

  // The same from where they are given: a thread has the same piece of every 32nd column.
  GCN_DEVICE void load_given_weights(unsigned char* to, int k_block, Copies& c) const {
    constexpr int kStep = kThreads / 4, kColumns = 8 * kColumnBlocks;
    const int first = int(threadIdx.x) / 4, piece = int(threadIdx.x) % 4 ^ (swizzle_rows(first, 0) & 3);
    const bool within = k_block * kBlockDepth + piece * kPiece<E> < p.c;
    to += int(threadIdx.x) * kPieceBytes;
#pragma unroll
    for (int i = 0; i < (kColumns + kStep - 1) / kStep; ++i) {
      if (first + i * kStep >= kColumns) continue;
      const uint32_t at = load_shared(columns() + first + i * kStep);
      const bool valid = within && at != kOutside;
      copy_async<16>(to + i * kCopyBytes, c.weights + (valid ? uint64_t(at) + piece : 0) * kPieceBytes, valid);
    }
    c.weights += kBlockBytes;
  }

  // Where a lane finds its numbers in a stage: of either fragment, and of the weights. The second step's are at the same places
  // but for one bit, or (x from NCHW) so many depths further.
  struct Places {
    int x[2], weights;
  };
  GCN_DEVICE Places find_places() const {
    Places at;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      at.x[i] = kept(kChannelsLast ? swizzle_rows(fragment_row(i) + a_row(lane), a_half(lane)) * kPieceBytes
                                   : a_columns_at<E>(fragment_row(i), kPixelPieces, lane));
    }
    at.weights = kept(kXBytes + swizzle_rows(b_row(lane), b_half(lane)) * kPieceBytes);
    return at;
  }

  // kEvery: all of the first column blocks are wanted by both fragments, which is straight code.
  template <bool kEvery>
  GCN_DEVICE void multiply(float (&acc)[2][kColumnBlocks][4], const unsigned char* stage, const Places& at,
                           const uint32_t (&wanted)[2]) const {
#pragma unroll 1  // what both steps have to keep at a time would not fit the registers
    for (int step = 0; step < 2; ++step) {
      constexpr int kStepBytes = 2 * kPieceBytes;
      uint32_t a[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (kChannelsLast) {
          ldmatrix_x4(a[i], stage + (at.x[i] ^ step * kStepBytes));
        } else {
          load_a_columns<E>(a[i], stage + step * kDepth<E> * kPixelPieces * kPieceBytes, at.x[i], kPixelPieces);
        }
        round_operand<M>(a[i]);
      }
      const unsigned char* weights = stage + (at.weights ^ step * kStepBytes);
#pragma unroll
      for (int j = 0; j + 1 < kColumnBlocks; j += 2) {
        uint32_t w[4];
        ldmatrix_x4(w, weights + j * 8 * kBlockBytes);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if ((kEvery && j + 1 < kSure) || (wanted[i] >> j & 3)) {
            mma(acc[i][j], a[i], {w[0], w[1]}, M{});
            mma(acc[i][j + 1], a[i], {w[2], w[3]}, M{});
          }
        }
      }
      if constexpr (kColumnBlocks % 2) {
        constexpr int j = kColumnBlocks - 1;
        uint32_t w[2];
        ldmatrix_x2(w, weights + j * 8 * kBlockBytes);
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
    for (int i = 0; i < 2; ++i) {
      float* own = scratch + c_column(lane, 0) * kScratchRow + fragment_row(i) + c_row(lane, 0);
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

  // 16 threads have a pixel, a middle channel each.
  GCN_DEVICE void write_u(const float* sums, int first_mid) const {
    constexpr int kAcross = 16, kDown = kThreads / kAcross, kTogether = 4;
    const int width = first_mid + mids == b.mid ? b.mid_padded - first_mid : mids, row = first_stage_sums_row(kTilePixels);
    for (int m = int(threadIdx.x) % kAcross; m < width; m += kAcross) {
      const bool used = m < mids;
      const float bias = used && b.bias ? to_float(static_cast<const E*>(b.bias)[first_mid + m]) : 0.0f;
      const int first = int(threadIdx.x) / kAcross;
      const float* from = sums + (used ? m : 0) * row + first;
      const Pixel* pixel = pixels() + first;
      unsigned char* const to = static_cast<unsigned char*>(b.u) + int64_t(first_mid + m) * int(sizeof(E));
      const uint32_t pixel_bytes = uint32_t(b.mid_padded) * uint32_t(sizeof(E));
#pragma unroll
      for (int i = 0; i < kTilePixels / kDown; i += kTogether) {
        int index[kTogether];
        float value[kTogether];
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          index[k] = load_shared(&pixel[(i + k) * kDown].index);
          value[k] = used && index[k] >= 0 ? load_shared(from + (i + k) * kDown) + bias : 0.0f;
        }
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          if (index[k] < 0) continue;
          *reinterpret_cast<E*>(to + uint64_t(uint32_t(index[k])) * pixel_bytes) = from_float<E>(value[k]);
        }
      }
    }
  }

  // --- unpacked: what is split is completed by the last of its blocks

  // Whether all other splits of this block's sums have been written.
  GCN_DEVICE bool takes_last_ticket() const {
    static uint32_t counters[kTicketSlots * kTicketsOfACall];  // zero between calls
    uint32_t* const taken = reinterpret_cast<uint32_t*>(stages());
    const int groups = p.branch[0].groups + p.branch[1].groups, own = tile * groups + axis * p.branch[0].groups + group;
    const uint32_t last = uint32_t(p.splits) - 1;
    __syncthreads();  // all threads have written theirs
    if (threadIdx.x == 0) store_shared(taken, take_ticket(counters + given->tickets + own, last));
    __syncthreads();
    return load_shared(taken) == last;
  }

  // A lane has four pixels, a warp every fourth middle channel; splits are added in their order.
  GCN_DEVICE void add_splits(float* sums, int first_mid) const {
    constexpr int kTogether = 8;  // splits whose sums are on their way
    const int row = first_stage_sums_row(kTilePixels);
    const int64_t next_split = int64_t(p.tiles) * b.mid * kTilePixels;
    for (int m = warp; m < mids; m += kThreads / 32) {
      const float* from = b.partial + ((int64_t(tile) * b.mid + first_mid + m) * kTilePixels + lane * 4);
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
      for (int first = 0; first < p.splits; first += kTogether, from += kTogether * next_split) {
        float4 part[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          part[i] = first + i < p.splits ? load_global(reinterpret_cast<const float4*>(from + i * next_split))
                                         : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          sum.x += part[i].x, sum.y += part[i].y, sum.z += part[i].z, sum.w += part[i].w;
        }
      }
      float* const to = sums + m * row + lane * 4;
      store_shared(to, sum.x), store_shared(to + 1, sum.y), store_shared(to + 2, sum.z), store_shared(to + 3, sum.w);
    }
  }

  GCN_DEVICE void run() {
    const int mid_group = group / b.tap_groups, tap_group = group % b.tap_groups;
    const int first_mid = mid_group * b.group_mid;
    mids = min(b.group_mid, b.mid - first_mid);
    first_tap = tap_group * b.group_taps, taps = min(b.group_taps, b.taps - first_tap);
    while (1 << shift < b.interleave) ++shift;
    if constexpr (!kPacked) find_columns(first_mid);
    find_pixels();
    int first = 0, last = p.k_blocks;
    if (p.splits > 1) {
      first = int(int64_t(p.k_blocks) * split / p.splits), last = int(int64_t(p.k_blocks) * (split + 1) / p.splits);
    }
    Copies copies = find_copies(first);
    const uint32_t wanted[2] = {broadcast(load_shared(masks() + fragment_row(0) / 16)),
                                broadcast(load_shared(masks() + fragment_row(1) / 16))};
    const bool every = (~(wanted[0] & wanted[1]) & ((1u << kSure) - 1)) == 0;
    const Places at = find_places();
    float acc[2][kColumnBlocks][4] = {};
    // The stage that is multiplied, and the one to be filled next.
    int stage = 0, free_stage = 0;
    const auto next_stage = [](int i) { return i + 1 == kFirstStageStages ? 0 : i + 1; };
    const auto load = [&](int k_block, bool with_x) {
      if (k_block < last) {
        unsigned char* const to = stages() + free_stage * kStageBytes;
        if (with_x) load_x(to, k_block, copies);
        if constexpr (kPacked) {
          load_weights(to + kXBytes, copies);
        } else {
          load_given_weights(to + kXBytes, k_block, copies);
        }
        free_stage = next_stage(free_stage);
      }
      copy_commit();
    };
    // While the launch before packs the weights, x is already on its way, unless that launch packs x as well.
    const int ahead = min(kFirstStageStages - 1, last - first);
    for (int i = 0; i < ahead && p.x_given; ++i) load_x(stages() + i * kStageBytes, first + i, copies);
    wait_for_dependencies();  // the packed weights, and maybe x
    for (int i = 0; i < kFirstStageStages - 1; ++i) load(first + i, !p.x_given);
    for (int k_block = first; k_block < last; ++k_block) {
      copy_wait<kFirstStageStages - 2>();
      __syncthreads();
      load(k_block + kFirstStageStages - 1, true);
      if (every) {
        multiply<true>(acc, stages() + stage * kStageBytes, at, wanted);
      } else {
        multiply<false>(acc, stages() + stage * kStageBytes, at, wanted);
      }
      stage = next_stage(stage);
    }
    copy_wait<0>();
    __syncthreads();

    const int extent = kTilePixels + 2 * b.overhang, slot = split * b.tap_groups + tap_group;
    const bool in_parts = kPacked ? !b.u : p.splits > 1;
    float* const partial = !in_parts ? nullptr : b.partial + ((int64_t(slot) * p.tiles + tile) * b.mid + first_mid) * extent;
    float* scratch = reinterpret_cast<float*>(stages());
    float* sums = scratch + kScratchColumns * kScratchRow;
    store_half<0>(acc, scratch);
    __syncthreads();
    add_taps<0>(scratch, sums, partial);
    __syncthreads();
    store_half<1>(acc, scratch);
    __syncthreads();
    add_taps<1>(scratch, sums, partial);
    if (partial) {
      if constexpr (kPacked) return;
      if (given->tickets < 0 || !takes_last_ticket()) return;
      add_splits(sums, first_mid);
    }
    __syncthreads();
    write_u(sums, first_mid);
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
__global__ void __launch_bounds__(kThreads, 2) unpacked_first_stage_kernel(GCN_PARAMS UnpackedFirstStage p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  const FirstStageBranch(&branch)[2] = p.stage.branch;
  const int items = branch[0].groups + branch[1].groups, item = int(blockIdx.x) % items;
  const int axis = item >= branch[0].groups, group = axis ? item - branch[0].groups : item;
  FirstStage<M, kColumnBlocks, true, false>{p.stage,
                                            branch[axis],
                                            axis,
                                            group,
                                            int(blockIdx.x) / items,
                                            int(blockIdx.y),
                                            int(threadIdx.x) % 32,
                                            int(threadIdx.x) / 32,
                                            shared,
                                            &p}
      .run();
}

template <class M, int kColumnBlocks>
int launch_unpacked_first_stage(const UnpackedFirstStage& p, int shared_bytes, Stream s) {
  const int items = p.stage.branch[0].groups + p.stage.branch[1].groups;
  const Launch how{dim3(unsigned(p.stage.tiles) * items, p.stage.splits), kThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch(unpacked_first_stage_kernel<M, kColumnBlocks>, how, p);
}

template <class M>
int launch_unpacked_first_stage(int column_blocks, const UnpackedFirstStage& p, int shared_bytes, Stream s) {
  if (column_blocks == 8) return launch_unpacked_first_stage<M, 8>(p, shared_bytes, s);
  if (column_blocks == 21) return launch_unpacked_first_stage<M, 21>(p, shared_bytes, s);
  return cudaErrorInvalidValue;
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
