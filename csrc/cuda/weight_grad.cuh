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
// the next arrives; two blocks share an SM, and it takes both to keep it busy.
//
// Skipped: column blocks whose tap leads from none of the step's pixels to another place in the map. The pixels of a patch follow
// each other across the taps' axis, 8 at a time, so that a step has two positions along it: of 16 x 16 pixels at k = 15, 84 % of
// the column blocks are left, of 32 x 32 92 %. From NCHW, where pieces lie along rows, only in the branch along columns.
//
// Cost of a step of 16 pixels, 16-bit: 2 + 8 ldmatrix for up to 30 HMMA, in 66 instructions where all column blocks are wanted,
// which is code without questions, else in 76; 15 blocks of 8 columns are 15 taps of one octet, 87.5 % of the columns useful at
// M = 21. A patch takes about 200 instructions more, next to four steps, most of them for loading it. Bound by the tensor cores;
// x is read from L2 once a group (6 times for k = 15, M = 21). Narrow: 2 + 6 ldmatrix for up to 18 HMMA; one group has all of
// k = 15, M = 21, 45 of 48 column blocks, so that dy and u are read from L2 once. Partial sums go to device memory in fp32,
// [split][a][column], and are added in a fixed order by finish.cuh.
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
  static constexpr int kOwn = kNarrow ? 2 * kPairs : kColumnBlocks;                              // column blocks of one warp
  static_assert(kOwn <= 32, "a lane each, a bit each");
  // Places of column blocks a lane keeps: of its own of each pair, where ldmatrix loads pairs; else of all.
  static constexpr int kPlaces = sizeof(E) == 2 ? kPairs : kOwn;
  // Pieces of A that a thread copies, and how many of them stand apart without a rule.
  static constexpr int kCopies = (kABytes / kPieceBytes + kThreads - 1) / kThreads, kOrigins = kNarrow ? kCopies : 1;
  using Accumulators = std::conditional_t<kNarrow, float[kPairs][kOctets][4], float[2][kColumnBlocks][4]>;

  const WeightGradParams& p;
  const WeightGradBranch& b;
  unsigned char* shared;
  const int group, channel_tile, split, lane, warp;
  // What the loops need of the parameters, so that they are fetched once.
  int axis = 0, radius = 0, inner_log2 = 0, height = 0, width = 0, patch_h = 0, patch_w = 0;
  bool by_columns = false;
  int first_channel = 0, first_octet = 0, octets = 0;
  int first_block = 0, columns = 0;  // the group's column blocks
  int window_w = 0, window_pixels = 0, pixel_bytes = 0, stage_bytes = 0;

  GCN_DEVICE void find_block() {
    axis = b.axis, radius = b.radius, inner_log2 = b.inner_log2, by_columns = b.by_columns;
    height = p.h, width = p.w, patch_h = p.patch_h, patch_w = p.patch_w;
    first_channel = channel_tile * kRows;
    first_block = group * b.group_blocks, columns = min(b.group_blocks, b.blocks - first_block);
    first_octet = first_block / b.taps, octets = (first_block + columns - 1) / b.taps - first_octet + 1;
    window_w = patch_w + (axis == 1 ? 2 * radius : 0);
    window_pixels = (patch_h + (axis == 0 ? 2 * radius : 0)) * window_w;
    pixel_bytes = window_pixel_bytes(octets, kOctetBytes);
    stage_bytes = kABytes + window_pixels * pixel_bytes;
  }

  struct Patch {
    int n, h, w;
  };
  GCN_DEVICE Patch patch_at(int i) const {
    const int per_map = p.patches_h * p.patches_w, in_map = i % per_map;
    return {i / per_map, in_map / p.patches_w * patch_h, in_map % p.patches_w * patch_w};
  }
  GCN_DEVICE Patch next_patch(Patch patch) const {
    patch.w += patch_w;
    if (patch.w >= width) patch.w = 0, patch.h += patch_h;
    if (patch.h >= height) patch.h = 0, ++patch.n;
    return patch;
  }

  // Where a pixel stands in its patch. The pixels of a patch follow each other across the taps' axis where the plan can have it
  // (`by_columns`), so that the few of one step have few positions along it. Either is a sum over the bits of the pixel's number.
  GCN_DEVICE int row_of(int pixel) const { return by_columns ? pixel & (patch_h - 1) : pixel >> inner_log2; }
  GCN_DEVICE int column_of(int pixel) const { return by_columns ? pixel >> inner_log2 : pixel & (patch_w - 1); }

  // Column block i, counted from the group's first, of the pair that is number j of this warp's.
  GCN_DEVICE int column_of(int j, int i) const { return 2 * (kNarrow ? j * kWarps + warp : j) + i; }

  // Which of the warp's column blocks have a tap that leads from one of a step's pixels to another place in the map: a bit each.
  // Each lane looks at one: `shift` is how far its tap leads.
  static constexpr uint32_t kAll = uint32_t((uint64_t(1) << kOwn) - 1);
  static constexpr int kNoColumn = -(1 << 30);
  struct Wanted {
    int shift, length;
    int steps_log2, positions;  // steps at one position are 2^this many pixels; positions of a step
  };
  GCN_DEVICE Wanted wanted_by() const {
    const bool across = by_columns == (axis == 1);  // else a step may have all positions of the patch
    const int column = column_of(lane / 2, lane % 2);
    const bool used = lane < kOwn && column < columns;
    return {used ? (first_block + column) % b.taps - radius : kNoColumn, axis == 0 ? height : width, across ? inner_log2 : 31,
            across ? ((kDepth<E> - 1) >> inner_log2) + 1 : patch_w};
  }
  GCN_DEVICE uint32_t find_wanted(const Wanted& by, Patch patch, int step) const {
    const int first = (axis == 0 ? patch.h : patch.w) + (step * kDepth<E> >> by.steps_log2);
    const int last = min(first + by.positions, by.length) - 1;
    return ballot(last + by.shift >= 0 && first + by.shift < by.length && first <= last);
  }

  // Where a pixel of the window stands relative to the patch's first pixel, and how far from it in memory, in pixels. Kept in
  // shared memory, because it takes divisions.
  struct Place {
    int32_t offset;
    int16_t h, w;
  };
  GCN_DEVICE Place* places() const { return reinterpret_cast<Place*>(shared + kWeightGradStages * stage_bytes); }
  GCN_DEVICE void write_places() const {
    for (int i = threadIdx.x; i < window_pixels; i += kThreads) {
      const int h = i / window_w - (axis == 0 ? radius : 0), w = i % window_w - (axis == 1 ? radius : 0);
      store_shared(places() + i, Place{h * width + w, int16_t(h), int16_t(w)});
    }
  }

  // What a thread copies of A: pieces of one channel octet (or, from NCHW, of one place in the patch), in shared memory
  // kThreads pieces apart. Where they stand in the patch, and from its first pixel in memory, in pieces.
  struct Origin {
    int h, w, channel;
    uint32_t offset;
  };
  struct Copies {
    Origin of[kOrigins];
    uint32_t apart[kNarrow ? 1 : 3];  // from the first piece to the second, third and fifth
    int to;                           // bytes
  };
  static constexpr int kStride = kChannelsLast ? kThreads / kRowPieces : kThreads / 8;  // pixels, or channels, between them
  GCN_DEVICE uint32_t offset_of(int h, int w, int channel) const {
    if constexpr (kChannelsLast) return h * p.stride_h + w * p.stride_w + channel / kPiece<E>;
    return h * p.stride_h + w / kPiece<E> + channel * p.stride_c;
  }
  GCN_DEVICE Copies find_copies() const {
    Copies c;
    const int tid = threadIdx.x;
#pragma unroll
    for (int i = 0; i < kOrigins; ++i) {
      const int at = tid + i * kThreads, pixel = kChannelsLast ? at / kRowPieces : at % 8 * kPiece<E>;
      const int channel = first_channel + (kChannelsLast ? at % kRowPieces * kPiece<E> : at / 8);
      c.of[i] = {row_of(pixel), column_of(pixel), channel, 0};
      c.of[i].offset = offset_of(c.of[i].h, c.of[i].w, channel);
    }
#pragma unroll
    for (int i = 0; i < 3 && !kNarrow; ++i) {
      const int further = kStride << i;
      c.apart[i] = kChannelsLast ? offset_of(row_of(further), column_of(further), 0) : further * p.stride_c;
    }
    c.to = kNarrow         ? tid  // an odd number of octets, as in the window
           : kChannelsLast ? swizzle_columns<E>(tid / kRowPieces, tid % kRowPieces, kRowPieces)
                           : swizzle_rows_128(tid / 8, tid % 8);
    c.to *= kPieceBytes;
    return c;
  }

  GCN_DEVICE void load_a(unsigned char* to, Patch patch, const Copies& c) const {
    const unsigned char* a = static_cast<const unsigned char*>(p.a);
    const uint32_t corner =
        patch.n * p.stride_n + patch.h * p.stride_h + (kChannelsLast ? patch.w * p.stride_w : patch.w / kPiece<E>);
    to += c.to;
    if constexpr (kNarrow) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        if (i * kThreads + int(threadIdx.x) >= kABytes / kPieceBytes) break;
        const Origin& of = c.of[i];
        const bool valid = patch.h + of.h < height && patch.w + of.w < width && of.channel < p.channels;
        copy_async<16>(to + i * kThreads * kPieceBytes, a + uint64_t(valid ? corner + of.offset : 0) * kPieceBytes, valid);
      }
    } else {
      const Origin& of = c.of[0];
      const bool inside = patch.h + patch_h <= height && patch.w + patch_w <= width && first_channel + kRows <= p.channels;
      const auto piece = [&](int i, bool valid) {
        const uint32_t apart = (i & 1 ? c.apart[0] : 0) + (i & 2 ? c.apart[1] : 0) + (i & 4 ? c.apart[2] : 0);
        const uint32_t offset = valid ? corner + of.offset + apart : 0;
        copy_async<16>(to + i * kThreads * kPieceBytes, a + uint64_t(offset) * kPieceBytes, valid);
      };
      if (inside) {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) piece(i, true);
      } else {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          const int h = patch.h + of.h + (kChannelsLast ? row_of(i * kStride) : 0);
          const int w = patch.w + of.w + (kChannelsLast ? column_of(i * kStride) : 0);
          piece(i, h < height && w < width && of.channel + (kChannelsLast ? 0 : i * kStride) < p.channels);
        }
      }
    }
  }

  GCN_DEVICE void load_window(unsigned char* to, Patch patch) const {
    const int corner = (patch.n * height + patch.h) * width + patch.w;
    const uint32_t map_pixel_bytes = uint32_t(b.channels) * uint32_t(sizeof(E));
    const unsigned char* map = static_cast<const unsigned char*>(b.map) + first_octet * kOctetBytes;
    for (int i = threadIdx.x; i < window_pixels; i += kThreads) {
      const Place place = load_shared(places() + i);
      const bool valid = unsigned(patch.h + place.h) < unsigned(height) && unsigned(patch.w + place.w) < unsigned(width);
      const unsigned char* from = map + uint64_t(uint32_t(valid ? corner + place.offset : 0)) * map_pixel_bytes;
      unsigned char* pixel = to + i * pixel_bytes;
#pragma unroll 1
      for (int octet = 0; octet < octets; ++octet, from += kOctetBytes, pixel += kOctetBytes) {
#pragma unroll
        for (int piece = 0; piece < kOctetBytes / kPieceBytes; ++piece) {
          copy_async<16>(pixel + piece * kPieceBytes, from + piece * kPieceBytes, valid);
        }
      }
    }
  }

  // A pixel's place in the window, for tap 0.
  GCN_DEVICE int pixel_at(int pixel) const { return (row_of(pixel) * window_w + column_of(pixel)) * pixel_bytes; }

  // Where a lane finds its numbers of one step, in bytes from the stage (of A) and from the step's first pixel (of the window).
  struct Places {
    int a[2];
    int column[kPlaces];
    int high;  // 32 bits: from the first half of the depth to the second
  };
  GCN_DEVICE Places find_places() const {
    Places at;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row0 = warp * 32 + i * 16;
      if constexpr (kNarrow) {
        at.a[i] = sizeof(E) == 2 ? (b_half(lane) * 8 + (lane & 7)) * kRows * 2 + (i == 0 ? (lane >> 4) * kOctetBytes : 0)
                                 : (lane & 3) * kRows * 4 + (lane >> 2) * 4;
      } else if constexpr (kChannelsLast) {
        at.a[i] = a_columns_at<E>(row0, kRowPieces, lane);
      } else {
        at.a[i] = swizzle_rows_128(row0 + a_row(lane), a_half(lane)) * kPieceBytes;
      }
    }
    // Rows of the window are pixels. 16 bits: both halves of the depth of the pair's first block, then of its second.
    const int own = sizeof(E) == 2 ? pixel_at(b_half(lane) * 8 + (lane & 7)) : pixel_at(lane & 3) + (lane >> 2) * 4;
    const int tap_bytes = (axis == 0 ? window_w : 1) * pixel_bytes, taps = b.taps;
#pragma unroll
    for (int j = 0; j < kPlaces; ++j) {
      // Column blocks past the last are computed, if at all, from the last one's data and never written.
      const int column = sizeof(E) == 2 ? column_of(j, lane >> 4) : column_of(j / 2, j % 2);
      const int block = first_block + min(column, columns - 1), octet = block / taps;
      at.column[j] = kABytes + own + (octet - first_octet) * kOctetBytes + (block - octet * taps) * tap_bytes;
    }
    at.high = pixel_at(4);
    return at;
  }

  GCN_DEVICE static uint32_t word(const unsigned char* from) { return load_shared(reinterpret_cast<const uint32_t*>(from)); }

  // `stage`: where the step's pixels begin, of A and of the window. kEvery: all column blocks are wanted, which are straight
  // code.
  template <bool kEvery>
  GCN_DEVICE void multiply(Accumulators& acc, const unsigned char* of_a, const unsigned char* window, const Places& at, int step,
                           uint32_t wanted) const {
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (kChannelsLast) {
        load_a_columns<E>(a[i], of_a + step * kDepth<E> * kRows * int(sizeof(E)), at.a[i], kRowPieces);
      } else {
        ldmatrix_x4(a[i], of_a + (at.a[i] ^ step * 32));
      }
      round_operand<M>(a[i]);
    }
    if constexpr (sizeof(E) == 2) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        if (!kEvery && !(wanted >> 2 * j & 3)) continue;
        if (2 * j + 1 < kColumnBlocks) {
          uint32_t w[4];
          ldmatrix_x4_trans(w, window + at.column[j]);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            mma(acc[i][2 * j], a[i], {w[0], w[1]}, M{});
            mma(acc[i][2 * j + 1], a[i], {w[2], w[3]}, M{});
          }
        } else {
          uint32_t w[2];
          ldmatrix_x2_trans(w, window + at.column[j]);
#pragma unroll
          for (int i = 0; i < 2; ++i) mma(acc[i][2 * j], a[i], w, M{});
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < kColumnBlocks; ++j) {
        if (!kEvery && !(wanted >> j & 1)) continue;
        const unsigned char* column = window + at.column[j];
        uint32_t w[2] = {word(column), word(column + at.high)};
        round_operand<M>(w);
#pragma unroll
        for (int i = 0; i < 2; ++i) mma(acc[i][j], a[i], w, M{});
      }
    }
  }

  // Narrow: the pairs are the product's rows, the octets of dy its columns. Lanes hold the same numbers of either operand.
  template <bool kEvery>
  GCN_DEVICE void multiply_narrow(Accumulators& acc, const unsigned char* of_a, const unsigned char* window, const Places& at,
                                  int step, uint32_t wanted) const {
    constexpr int kPixelBytes = kRows * int(sizeof(E));
    const unsigned char* own = of_a + step * kDepth<E> * kPixelBytes;
    uint32_t a[kOctets][2];
    if constexpr (sizeof(E) == 2) {
      uint32_t two[4];
      ldmatrix_x4_trans(two, own + at.a[0]);
      a[0][0] = two[0], a[0][1] = two[1], a[1][0] = two[2], a[1][1] = two[3];
      ldmatrix_x2_trans(a[2], own + at.a[1] + 2 * kOctetBytes);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        if (!kEvery && !(wanted >> 2 * j & 3)) continue;
        uint32_t w[4];
        ldmatrix_x4_trans(w, window + at.column[j]);
#pragma unroll
        for (int i = 0; i < kOctets; ++i) mma(acc[j][i], {w[0], w[2], w[1], w[3]}, a[i], M{});
      }
    } else {
#pragma unroll
      for (int i = 0; i < kOctets; ++i) {
        a[i][0] = word(own + at.a[0] + i * kOctetBytes), a[i][1] = word(own + at.a[0] + i * kOctetBytes + 4 * kPixelBytes);
        round_operand<M>(a[i]);
      }
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        if (!kEvery && !(wanted >> 2 * j & 3)) continue;
        const unsigned char *first = window + at.column[2 * j], *second = window + at.column[2 * j + 1];
        uint32_t w[4] = {word(first), word(second), word(first + at.high), word(second + at.high)};
        round_operand<M>(w);
#pragma unroll
        for (int i = 0; i < kOctets; ++i) mma(acc[j][i], w, a[i], M{});
      }
    }
  }

  // Where the group's first column block is to be written, of a channel counted from the tile's first; null outside.
  GCN_DEVICE float* partial_of(int row) const {
    const int channel = first_channel + row;
    if (channel >= p.channels) return nullptr;
    const int64_t blocks = (int64_t(split) * p.channels + channel) * p.blocks_per_row + b.first_block + first_block;
    return p.partial + blocks * kOctet;
  }

  GCN_DEVICE void write(const Accumulators& acc) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2* to = reinterpret_cast<float2*>(partial_of(warp * 32 + i * 16 + c_row(lane, half * 2)));
        if (!to) continue;
        to += lane & 3;
#pragma unroll
        for (int j = 0; j < kColumnBlocks; ++j) {
          if (j < columns) to[j * (kOctet / 2)] = float2{acc[i][j][half * 2], acc[i][j][half * 2 + 1]};
        }
      }
    }
  }

  GCN_DEVICE void write_narrow(const Accumulators& acc) const {
#pragma unroll
    for (int i = 0; i < kOctets * 2; ++i) {
      float* to = partial_of(i / 2 * kOctet + c_column(lane, i % 2));
      if (!to) continue;
      to += lane >> 2;
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
#pragma unroll
        for (int second = 0; second < 2; ++second) {
          const int column = column_of(j, second);
          if (column < columns) to[column * kOctet] = acc[j][i / 2][second * 2 + i % 2];
        }
      }
    }
  }

  template <bool kEvery>
  GCN_DEVICE void multiply_step(Accumulators& acc, const unsigned char* stage, const unsigned char* window, const Places& at,
                                int step, uint32_t wanted) const {
    if constexpr (kNarrow) {
      multiply_narrow<kEvery>(acc, stage, window, at, step, wanted);
    } else {
      multiply<kEvery>(acc, stage, window, at, step, wanted);
    }
  }

  GCN_DEVICE void run() {
    find_block();
    write_places();
    const Copies copies = find_copies();
    const Places at = find_places();
    const Wanted by = wanted_by();
    const int step_apart[2] = {pixel_at(kDepth<E>), pixel_at(2 * kDepth<E>)};
    const int64_t patches = int64_t(p.n) * p.patches_h * p.patches_w;
    const int first = int(patches * split / p.splits), last = int(patches * (split + 1) / p.splits);
    Accumulators acc = {};
    wait_for_dependencies();
    __syncthreads();  // the places are there

    unsigned char *stage = shared, *next_stage = shared + stage_bytes;
    const auto load = [&](unsigned char* to, Patch patch) {
      load_a(to, patch, copies);
      load_window(to + kABytes, patch);
      copy_commit();
    };
    Patch patch = patch_at(first);
    if (first < last) load(stage, patch);
    for (int i = first; i < last; ++i) {
      const Patch next = next_patch(patch);
      copy_wait<0>();
      __syncthreads();
      if (i + 1 < last) load(next_stage, next);
#pragma unroll 1
      for (int step = 0; step < kSteps; ++step) {
        const uint32_t wanted = find_wanted(by, patch, step);
        const unsigned char* window = stage + (step & 1) * step_apart[0] + (step >> 1) * step_apart[1];
        if (wanted == kAll) {
          multiply_step<true>(acc, stage, window, at, step, wanted);
        } else {
          multiply_step<false>(acc, stage, window, at, step, wanted);
        }
      }
      patch = next;
      unsigned char* const free_stage = stage;
      stage = next_stage, next_stage = free_stage;
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
