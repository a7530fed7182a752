// Weight gradients of both stages, as one matrix product over the pixels:
//
//   dW[a, (b, t)] = sum_p A[p, a] B[p + (t - radius) along the branch's axis, b]
//
//   first stage     A = x, B = du_l (along columns) and du_r (along rows); tap t is tap k - 1 - t of the weight
//   second stage    A = dy, B = u_l (along rows) and u_r (along columns)
//
// Columns of the product come in blocks of 8 channels of B at one tap, numbered tap fastest: a group of them needs only an octet
// or two of B's channels. Who owns what: a block has one branch, one group of column blocks, a tile of A's channels and one split
// of the pixels. Its 4 warps have 32 channels each (128 in all) and every column.
//
// In the narrow version, for dy with its few channels, a block has 24 of them, and its warps share the columns: pairs of column
// blocks are dealt out to them in turn. There the operands change places for the tensor cores, whose products have 16 rows and 8
// columns: of 21 channels 3 are padding as columns, as rows 11 would be.
//
// K-tiles are patches of 64 pixels (32 in 32 bits): A's tile [pixels][channels] (NHWC) or [channels][pixels] (NCHW), 16 KB, and
// the window of B under the patch with its halo, (patch + halo) * (octets | 1) octets; behind the stages, where their pixels
// stand. A tap is a step of the address at which ldmatrix reads the rows of B. Two stages by cp.async: while one is multiplied,
// the next arrives; two blocks share an SM.
//
// Skipped: column blocks whose tap leads from none of the step's pixels to another place in the map. The pixels of a patch follow
// each other across the taps' axis, 8 at a time, so that a step has two positions along it: of 16 x 16 pixels at k = 15, 84 % of
// the column blocks are left, of 32 x 32 92 %. From NCHW, where pieces lie along rows, only in the branch along columns.
//
// Cost of a step of 16 pixels, 16-bit: 2 + 8 ldmatrix.x4 for up to 30 HMMA, in 150 instructions, 175 on sm_120; 15 blocks of 8
// columns are 15 taps of one octet, 87.5 % of the columns useful at M = 21. Loading a patch takes 480 instructions more, next to
// four steps. Bound by the tensor cores; x is read from L2 once a group (6 times for k = 15, M = 21). Narrow: 2 + 6 ldmatrix for
// up to 18 HMMA, in 160 to 190 instructions with what decides on the skipping at the edges of the map, so that shared memory is
// busy for 83 % of the tensor cores' time; one group has all of k = 15, M = 21, 45 of 48 column blocks, so that dy and u are
// read from L2 once. Partial sums go to device memory in fp32, [split][a][column], and are added in a fixed order by finish.cuh.
#pragma once

#include <algorithm>
#include <type_traits>

#include "fragment.cuh"
#include "tiles.h"

namespace gcn::cuda {

template <class M, bool kNarrow, bool kChannelsLast, int kColumnBlocks>
struct WeightGradBlock {
  using E = Element<M>;
  static constexpr int kRows = weight_grad_rows(kNarrow), kPatch = patch_pixels(sizeof(E));
  static constexpr int kABytes = weight_grad_a_bytes(kNarrow), kRowPieces = kRows / kPiece<E>;
  static constexpr int kSteps = kPatch / kDepth<E>;  // 4
  static constexpr int kOctetBytes = kOctet * int(sizeof(E));
  static constexpr int kWarps = kThreads / 32, kOctets = kRows / kOctet;
  static constexpr int kPairs = kNarrow ? kColumnBlocks / 2 / kWarps : (kColumnBlocks + 1) / 2;  // of one warp
  // Places of column blocks a lane keeps: of its own of each pair, where ldmatrix loads pairs; else of all.
  static constexpr int kPlaces = sizeof(E) == 2 ? kPairs : kNarrow ? 2 * kPairs : kColumnBlocks;
  using Wanted = std::conditional_t<(kColumnBlocks > 32), uint64_t, uint32_t>;
  using Accumulators = std::conditional_t<kNarrow, float[kPairs][kOctets][4], float[2][kColumnBlocks][4]>;

  const WeightGradParams& p;
  const WeightGradBranch& b;
  unsigned char* shared;
  const int group, channel_tile, split, lane, warp;
  int first_channel = 0, first_octet = 0, octets = 0;
  int first_block = 0, columns = 0;  // the group's column blocks
  int first_column = 0;              // where the first octet's taps begin, counted from the group's columns: 0 or less
  int window_h = 0, window_w = 0, pixel_bytes = 0, stage_bytes = 0;

  GCN_DEVICE void find_block() {
    first_channel = channel_tile * kRows;
    first_block = group * b.group_blocks, columns = min(b.group_blocks, b.blocks - first_block);
    first_octet = first_block / b.taps, octets = (first_block + columns - 1) / b.taps - first_octet + 1;
    first_column = first_octet * b.taps - first_block;
    window_h = p.patch_h + (b.axis == 0 ? 2 * b.radius : 0), window_w = p.patch_w + (b.axis == 1 ? 2 * b.radius : 0);
    pixel_bytes = window_pixel_bytes(octets, kOctetBytes);
    stage_bytes = kABytes + window_h * window_w * pixel_bytes;
  }

  struct Patch {
    int n, h, w;
  };
  GCN_DEVICE Patch patch_at(int i) const {
    const int per_map = p.patches_h * p.patches_w, in_map = i % per_map;
    return {i / per_map, in_map / p.patches_w * p.patch_h, in_map % p.patches_w * p.patch_w};
  }

  // Where a pixel stands in its patch. The pixels of a patch follow each other across the taps' axis where the plan can have it
  // (`by_columns`), so that the few of one step have few positions along it.
  GCN_DEVICE int row_of(int pixel) const { return b.by_columns ? pixel & (p.patch_h - 1) : pixel >> b.inner_log2; }
  GCN_DEVICE int column_of(int pixel) const { return b.by_columns ? pixel >> b.inner_log2 : pixel & (p.patch_w - 1); }

  // The group's column blocks, a bit each, with a tap that leads from one of the step's pixels to another place in the map.
  GCN_DEVICE Wanted find_wanted(Patch patch, int step) const {
    const bool across = b.by_columns == (b.axis == 1);  // else a step may have all positions of the patch
    const int length = b.axis == 0 ? p.h : p.w, first_pixel = step * kDepth<E>;
    const int in_patch = across ? first_pixel >> b.inner_log2 : 0;
    const int width = across ? ((kDepth<E> - 1) >> b.inner_log2) + 1 : p.patch_w;  // positions
    const int first = (b.axis == 0 ? patch.h : patch.w) + in_patch, last = min(first + width, length) - 1;
    const int low = max(0, b.radius - last), high = first <= last ? min(b.taps, length - first + b.radius) : 0;
    const auto up_to = [](int column) { return (Wanted(1) << column) - 1; };
    if (low == 0 && high == b.taps) return up_to(columns);
    Wanted wanted = 0;
    for (int octet = first_column; octet < columns; octet += b.taps) {
      const int from = max(octet + low, 0), to = min(octet + high, columns);
      if (from < to) wanted |= up_to(to) & ~up_to(from);
    }
    return wanted;
  }

  // Where a pixel of a patch, or of the window under it, stands relative to the patch's first pixel, and how far from it in
  // memory: of A in pieces, of B in pixels. Kept in shared memory, because it takes divisions.
  struct Place {
    uint32_t offset;
    int16_t h, w;
  };
  GCN_DEVICE Place* window_places() const { return reinterpret_cast<Place*>(shared + kWeightGradStages * stage_bytes); }
  GCN_DEVICE Place* a_places() const { return window_places() + window_h * window_w; }
  GCN_DEVICE void write_places() const {
    for (int i = threadIdx.x; i < window_h * window_w; i += kThreads) {
      const int h = i / window_w - (b.axis == 0 ? b.radius : 0), w = i % window_w - (b.axis == 1 ? b.radius : 0);
      store_shared(window_places() + i, Place{uint32_t(h * p.w + w), int16_t(h), int16_t(w)});
    }
    for (int i = threadIdx.x; i < kPatch; i += kThreads) {
      const int h = row_of(i), w = column_of(i);
      const uint32_t offset = h * p.stride_h + (kChannelsLast ? w * p.stride_w : w / kPiece<E>);
      store_shared(a_places() + i, Place{offset, int16_t(h), int16_t(w)});
    }
  }

  GCN_DEVICE void load_a(unsigned char* to, Patch patch) const {
    const unsigned char* map = static_cast<const unsigned char*>(p.a) + uint64_t(patch.n) * p.stride_n * kPieceBytes;
    const uint32_t corner = patch.h * p.stride_h + (kChannelsLast ? patch.w * p.stride_w : patch.w / kPiece<E>);
    constexpr int kPieces = kABytes / kPieceBytes;
#pragma unroll 4
    for (int i = threadIdx.x; i < kPieces; i += kThreads) {
      const int pixel = kChannelsLast ? i / kRowPieces : i % 8 * kPiece<E>;
      const int row = kChannelsLast ? i % kRowPieces * kPiece<E> : i / 8, channel = first_channel + row;
      const Place place = load_shared(a_places() + pixel);
      const bool valid = patch.h + place.h < p.h && patch.w + place.w < p.w && channel < p.channels;
      const uint32_t offset = corner + place.offset + (kChannelsLast ? channel / kPiece<E> : channel * p.stride_c);
      const int at = kNarrow         ? i  // an odd number of octets, as in the window
                     : kChannelsLast ? swizzle_columns<E>(pixel, i % kRowPieces, kRowPieces)
                                     : swizzle_rows_128(row, i % 8);
      copy_async<16>(to + at * kPieceBytes, map + uint64_t(valid ? offset : 0) * kPieceBytes, valid);
    }
  }

  GCN_DEVICE void load_window(unsigned char* to, Patch patch) const {
    const int64_t corner = (int64_t(patch.n) * p.h + patch.h) * p.w + patch.w;
    const E* map = static_cast<const E*>(b.map) + first_octet * kOctet;
    for (int i = threadIdx.x; i < window_h * window_w; i += kThreads) {
      const Place place = load_shared(window_places() + i);
      const bool valid = unsigned(patch.h + place.h) < unsigned(p.h) && unsigned(patch.w + place.w) < unsigned(p.w);
      const E* from = map + (valid ? corner + int(place.offset) : 0) * b.channels;
      for (int piece = 0; piece < octets * (kOctet / kPiece<E>); ++piece) {
        copy_async<16>(to + i * pixel_bytes + piece * kPieceBytes, from + piece * kPiece<E>, valid);
      }
    }
  }

  // A pixel's place in the window, for tap 0.
  GCN_DEVICE int pixel_at(int pixel) const { return (row_of(pixel) * window_w + column_of(pixel)) * pixel_bytes; }

  // Column block i, counted from the group's first, of the pair that is number j of this warp's.
  GCN_DEVICE int column_of(int j, int i) const { return 2 * (kNarrow ? j * kWarps + warp : j) + i; }

  // `column_at`: where the lane's column blocks lie from there.
  GCN_DEVICE void multiply(Accumulators& acc, const unsigned char* stage, const int (&column_at)[kPlaces], int step,
                           Wanted wanted) const {
    const unsigned char* window = stage + kABytes;
    const int depth0 = step * kDepth<E>;
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row0 = warp * 32 + i * 16;
      if constexpr (kChannelsLast) {
        load_a_columns<E>(a[i], stage, row0, depth0, kRowPieces, lane);
      } else {
        ldmatrix_x4(a[i], stage + swizzle_rows_128(row0 + a_row(lane), step * 2 + a_half(lane)) * kPieceBytes);
      }
      round_operand<M>(a[i]);
    }
    if constexpr (sizeof(E) == 2) {
      // Rows are pixels: both halves of the depth of the pair's first block, then of its second.
      const int pixel = pixel_at(depth0 + b_half(lane) * 8 + (lane & 7));
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        if (!(wanted >> 2 * j & 3)) continue;
        if (2 * j + 1 < kColumnBlocks) {
          uint32_t w[4];
          ldmatrix_x4_trans(w, window + pixel + column_at[j]);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            mma(acc[i][2 * j], a[i], {w[0], w[1]}, M{});
            mma(acc[i][2 * j + 1], a[i], {w[2], w[3]}, M{});
          }
        } else {
          uint32_t w[2];
          ldmatrix_x2_trans(w, window + pixel + column_at[j]);
#pragma unroll
          for (int i = 0; i < 2; ++i) mma(acc[i][2 * j], a[i], w, M{});
        }
      }
    } else {
      const int low = pixel_at(depth0 + (lane & 3)), high = pixel_at(depth0 + 4 + (lane & 3)), channel = (lane >> 2) * 4;
#pragma unroll
      for (int j = 0; j < kColumnBlocks; ++j) {
        if (!(wanted >> j & 1)) continue;
        const unsigned char* column = window + column_at[j] + channel;
        uint32_t w[2] = {load_shared(reinterpret_cast<const uint32_t*>(column + low)),
                         load_shared(reinterpret_cast<const uint32_t*>(column + high))};
        round_operand<M>(w);
#pragma unroll
        for (int i = 0; i < 2; ++i) mma(acc[i][j], a[i], w, M{});
      }
    }
  }

  // Narrow: the pairs are the product's rows, the octets of dy its columns. Lanes hold the same numbers of either operand.
  GCN_DEVICE void multiply_narrow(Accumulators& acc, const unsigned char* stage, const int (&column_at)[kPlaces], int step,
                                  Wanted wanted) const {
    const unsigned char* window = stage + kABytes;
    const int depth0 = step * kDepth<E>;
    constexpr int kPixelBytes = kRows * int(sizeof(E));
    uint32_t a[kOctets][2];
    if constexpr (sizeof(E) == 2) {
      const int in_patch = depth0 + b_half(lane) * 8 + (lane & 7), pixel = pixel_at(in_patch);
      const unsigned char* own = stage + in_patch * kPixelBytes;
      uint32_t two[4];
      ldmatrix_x4_trans(two, own + (lane >> 4) * kOctetBytes);
      a[0][0] = two[0], a[0][1] = two[1], a[1][0] = two[2], a[1][1] = two[3];
      ldmatrix_x2_trans(a[2], own + 2 * kOctetBytes);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        if (!(wanted >> column_of(j, 0) & 3)) continue;
        uint32_t w[4];
        ldmatrix_x4_trans(w, window + pixel + column_at[j]);
#pragma unroll
        for (int i = 0; i < kOctets; ++i) mma(acc[j][i], {w[0], w[2], w[1], w[3]}, a[i], M{});
      }
    } else {
      const int low = depth0 + (lane & 3), high = low + 4, channel = (lane >> 2) * 4;
      const auto number = [](const unsigned char* from) { return load_shared(reinterpret_cast<const uint32_t*>(from)); };
#pragma unroll
      for (int i = 0; i < kOctets; ++i) {
        const unsigned char* own = stage + i * kOctetBytes + channel;
        a[i][0] = number(own + low * kPixelBytes), a[i][1] = number(own + high * kPixelBytes);
        round_operand<M>(a[i]);
      }
      const unsigned char *from_low = window + pixel_at(low) + channel, *from_high = window + pixel_at(high) + channel;
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        if (!(wanted >> column_of(j, 0) & 3)) continue;
        const int first = column_at[2 * j], second = column_at[2 * j + 1];
        uint32_t w[4] = {number(from_low + first), number(from_low + second), number(from_high + first),
                         number(from_high + second)};
        round_operand<M>(w);
#pragma unroll
        for (int i = 0; i < kOctets; ++i) mma(acc[j][i], w, a[i], M{});
      }
    }
  }

  // Where element 0 of a column block is to be written, of a channel counted from the tile's first; null outside.
  GCN_DEVICE float* partial_at(int row, int column) const {
    const int channel = first_channel + row;
    if (channel >= p.channels || column >= columns) return nullptr;
    const int64_t blocks = (int64_t(split) * p.channels + channel) * p.blocks_per_row + b.first_block + first_block + column;
    return p.partial + blocks * kOctet;
  }

  GCN_DEVICE void write(const Accumulators& acc) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warp * 32 + i * 16 + c_row(lane, half * 2);
#pragma unroll
        for (int j = 0; j < kColumnBlocks; ++j) {
          float2* to = reinterpret_cast<float2*>(partial_at(row, j));
          if (to) to[lane & 3] = float2{acc[i][j][half * 2], acc[i][j][half * 2 + 1]};
        }
      }
    }
  }

  GCN_DEVICE void write_narrow(const Accumulators& acc) const {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
#pragma unroll
      for (int i = 0; i < kOctets * 4; ++i) {
        float* to = partial_at(i / 4 * kOctet + c_column(lane, i % 4), column_of(j, i % 4 / 2));
        if (to) to[lane >> 2] = acc[j][i / 4][i % 4];
      }
    }
  }

  GCN_DEVICE void run() {
    find_block();
    write_places();
    int column_at[kPlaces];
    const int tap_bytes = (b.axis == 0 ? window_w : 1) * pixel_bytes;
#pragma unroll
    for (int j = 0; j < kPlaces; ++j) {
      // Column blocks past the last are computed, if at all, from the last one's data and never written.
      const int column = sizeof(E) == 2 ? column_of(j, lane >> 4) : column_of(j / 2, j % 2);
      const int block = first_block + min(column, columns - 1);
      column_at[j] = (block / b.taps - first_octet) * kOctetBytes + block % b.taps * tap_bytes;
    }
    const int64_t patches = int64_t(p.n) * p.patches_h * p.patches_w;
    const int first = int(patches * split / p.splits), last = int(patches * (split + 1) / p.splits);
    Accumulators acc = {};
    wait_for_dependencies();
    __syncthreads();  // the places are there

    const auto load = [&](int i) {
      const Patch patch = patch_at(i);
      if (i < last) {
        unsigned char* stage = shared + (i - first) % kWeightGradStages * stage_bytes;
        load_a(stage, patch);
        load_window(stage + kABytes, patch);
      }
      copy_commit();
      return patch;
    };
    Patch patch, next = load(first);
    for (int i = first; i < last; ++i) {
      patch = next;
      copy_wait<0>();
      __syncthreads();
      next = load(i + 1);
      const unsigned char* stage = shared + (i - first) % kWeightGradStages * stage_bytes;
#pragma unroll 1
      for (int step = 0; step < kSteps; ++step) {
        if constexpr (kNarrow) {
          multiply_narrow(acc, stage, column_at, step, find_wanted(patch, step));
        } else {
          multiply(acc, stage, column_at, step, find_wanted(patch, step));
        }
      }
    }
    if constexpr (kNarrow) {
      write_narrow(acc);
    } else {
      write(acc);
    }
  }
};

// `block`: of the groups of both branches.
template <class M, bool kNarrow, bool kChannelsLast, int kColumnBlocks>
GCN_DEVICE void run_weight_grad(const WeightGradParams& p, int block, int channel_tile, int split, unsigned char* shared) {
  const int side = block >= p.branch[0].groups, group = block - side * p.branch[0].groups;
  const int lane = int(threadIdx.x) % 32, warp = broadcast(int(threadIdx.x) / 32);
  WeightGradBlock<M, kNarrow, kChannelsLast, kColumnBlocks>{p, p.branch[side], shared, group, channel_tile, split, lane, warp}
      .run();
}

// Grid: x = groups of both branches, y = tile of A's channels, z = split of the pixels.
template <class M, bool kChannelsLast, int kColumnBlocks>
__global__ void __launch_bounds__(kThreads, weight_grad_blocks_per_multiprocessor(std::is_same_v<M, Fp32>, false))
    weight_grad_kernel(GCN_PARAMS WeightGradParams p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  run_weight_grad<M, false, kChannelsLast, kColumnBlocks>(p, blockIdx.x, blockIdx.y, blockIdx.z, shared);
}

template <class M, int kColumnBlocks>
int launch_weight_grad(bool channels_last, const WeightGradParams& p, int shared_bytes, Stream s) {
  const int rows = weight_grad_rows(false);
  const dim3 grid(p.branch[0].groups + p.branch[1].groups, (p.channels + rows - 1) / rows, p.splits);
  const Launch how{grid, kThreads, size_t(shared_bytes), s.stream, s.dependent};
  return channels_last ? launch(weight_grad_kernel<M, true, kColumnBlocks>, how, p)
                       : launch(weight_grad_kernel<M, false, kColumnBlocks>, how, p);
}

template <class M>
int launch_weight_grad(bool channels_last, int column_blocks, const WeightGradParams& p, int shared_bytes, Stream s) {
  if (column_blocks == 15) return launch_weight_grad<M, 15>(channels_last, p, shared_bytes, s);
  if constexpr (!std::is_same_v<M, Fp32>) {  // as weight_grad_compiled() says
    if (column_blocks == 21) return launch_weight_grad<M, 21>(channels_last, p, shared_bytes, s);
  }
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
