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
// Weights come packed (PackedWeights, by prepare.cuh), or as they are given (first_stage_unpacked.cuh).
//
// Cost of a step (32 bytes of depth, 16-bit): a warp issues 2 ldmatrix.x4 for x and 10 + 1 for w against up to 42 HMMA, in 75
// instructions where both its fragments want nearly all column blocks, which is code without questions, else in 93; and about
// 100 a k-block besides. The SM reads 128 * 32 + 4 * 168 * 32 = 25.6 KB of shared memory in 336 clocks of HMMA at 1024 FMA a
// clock (76 B a clock of 128), and 9.5 KB from L2 (28 B a clock): bound by the tensor cores, L2 close behind, if there are warps
// enough. The epilogue writes and reads T once through shared memory, 2 x 86 KB, in about 2000 instructions a warp: all loads
// of four taps and four middle channels are in flight together, and what is outside of a line counts as zero. The prologue takes
// 600 more.
#pragma once

#include "../fragment.cuh"
#include "first_stage_taps.cuh"
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

// Weights as prepare.cuh packs them: of each k-block [columns][64 B], as they will lie in a stage.
template <int kColumnBlocks>
struct PackedWeights {
  static constexpr int kPieces = 8 * kColumnBlocks * 4;      // of a k-block
  static constexpr int kCopyBytes = kThreads * kPieceBytes;  // from one of a thread's pieces to the next, in a stage

  const unsigned char* from = nullptr;  // this thread's first piece of the k-block to come
  int used = 0;                         // column blocks with weights in them

  template <class Block>
  GCN_DEVICE void find_columns(const Block&, int) const {}
  template <class Block>
  GCN_DEVICE void start(const Block& block, int first) {
    from = static_cast<const unsigned char*>(block.b.weights) +
           (int64_t(block.group) * block.p.k_blocks + first) * (kPieces * kPieceBytes) + threadIdx.x * kPieceBytes;
    used = (block.mids * block.taps + 7) / 8;
  }

  // Weights come four column blocks at a time; a rest of less than four is for the first threads.
  template <class Block>
  GCN_DEVICE void load(unsigned char* to, int, const Block&) {
    constexpr int kWhole = kPieces / kThreads, kRest = kPieces % kThreads;
    const int tid = threadIdx.x;
    to += tid * kPieceBytes;
    const auto copy = [&](int i) { copy_async<16>(to + i * kCopyBytes, from + i * kCopyBytes, true); };
    if (used > 4 * (kWhole - 1)) {
#pragma unroll
      for (int i = 0; i < kWhole; ++i) copy(i);
    } else {
#pragma unroll
      for (int i = 0; i < kWhole - 1; ++i) {
        if (4 * i < used) copy(i);
      }
    }
    if (kRest > 0 && 4 * kWhole < used && tid < kRest) copy(kWhole);
    from += kPieces * kPieceBytes;
  }

  // What is split, or leads out of the tile, is completed by combine.cuh.
  template <class Block>
  GCN_DEVICE static bool in_parts(const Block& block) {
    return !block.b.u;
  }
  template <class Block>
  GCN_DEVICE bool completes(const Block&, float*, int) const {
    return false;
  }
};

template <class M, int kColumnBlocks, bool kChannelsLast, class Weights>
struct FirstStage {
  using E = Element<M>;
  static constexpr int kStageBytes = first_stage_stage_bytes(kColumnBlocks);
  static constexpr int kXBytes = kTilePixels * kBlockBytes;
  static constexpr int kBlockDepth = kBlockBytes / int(sizeof(E));  // channels of a k-block
  static constexpr int kPixelPieces = kTilePixels / kPiece<E>;      // pieces of one channel's pixels, from NCHW
  static constexpr int kCopyBytes = kThreads * kPieceBytes;         // from one of a thread's pieces to the next, in a stage
  // Column blocks that straight code multiplies without asking, where a warp wants them all. Groups may use one or two less.
  static constexpr int kSure = kColumnBlocks - 2;

  const FirstStageParams& p;
  const FirstStageBranch& b;
  const int axis, group, tile, split, lane, warp;
  unsigned char* shared;
  Weights weights{};
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

  // What this thread copies: pieces of x that stand kCopyBytes apart in a stage. Found once, and kept.
  struct Copies {
    const unsigned char* x;                    // of the k-block to come, of pixel 0
    uint32_t x_offset[kChannelsLast ? 4 : 1];  // of its pixels, in pieces
    uint32_t inside;                           // which of these there are, a bit each
    int x_to;                                  // in a stage
  };
  GCN_DEVICE Copies find_copies(int first) const {
    const int tid = threadIdx.x;
    Copies c{static_cast<const unsigned char*>(p.x), {}, 0, 0};
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

  GCN_DEVICE void run() {
    const int mid_group = group / b.tap_groups, tap_group = group % b.tap_groups;
    const int first_mid = mid_group * b.group_mid;
    mids = min(b.group_mid, b.mid - first_mid);
    first_tap = tap_group * b.group_taps, taps = min(b.group_taps, b.taps - first_tap);
    while (1 << shift < b.interleave) ++shift;
    weights.find_columns(*this, first_mid);
    find_pixels();
    int first = 0, last = p.k_blocks;
    if (p.splits > 1) {
      first = int(int64_t(p.k_blocks) * split / p.splits), last = int(int64_t(p.k_blocks) * (split + 1) / p.splits);
    }
    weights.start(*this, first);
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
        weights.load(to + kXBytes, k_block, *this);
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
    const bool in_parts = weights.in_parts(*this);
    float* const partial = !in_parts ? nullptr : b.partial + ((int64_t(slot) * p.tiles + tile) * b.mid + first_mid) * extent;
    const FirstStageTaps<kColumnBlocks> end{p, b, tile, lane, mids, first_tap, taps, shift};
    const int rows[2] = {fragment_row(0), fragment_row(1)};
    float* const scratch = reinterpret_cast<float*>(stages());
    float* const sums = end.sums_behind(scratch);
    end.add_all(acc, rows, scratch, sums, partial);
    if (partial && !weights.completes(*this, sums, first_mid)) return;
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
  FirstStage<M, kColumnBlocks, kChannelsLast, PackedWeights<kColumnBlocks>>{
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
  if constexpr (!kIsFp32<M>) {  // as first_stage_compiled() says
    if (column_blocks == 16) return launch_first_stage<M, 16>(channels_last, p, shared_bytes, s);
    if (column_blocks == 21) return launch_first_stage<M, 21>(channels_last, p, shared_bytes, s);
    if constexpr (!kIsTf32<M>) {
      if (column_blocks == 22) return launch_first_stage<M, 22>(channels_last, p, shared_bytes, s);
    }
  }
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
