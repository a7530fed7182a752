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
// A value that is not finite must not meet the zeros around the map: there conv2d multiplies nothing, and here that is nan. Sums
// that are not finite are rare, so a block looks at its sums when it has them all, and if one of them is not finite it starts
// again, carefully: where only some of a step's pixels have a partner inside the map, it clears the others' on both sides. That
// takes less than twice the first time, whatever the values are.
//
// Cost of a step of 16 pixels, 16-bit: 2 + 8 ldmatrix.x4 for up to 30 HMMA, in 130 instructions; 15 blocks of 8 columns are 15
// taps of one octet, 87.5 % of the columns useful at M = 21. Loading a patch takes 330 instructions more, next to four steps.
// Bound by the tensor cores; x is read from L2 once a group (6 times for k = 15, M = 21). Narrow: 2 + 6 ldmatrix for up to 18
// HMMA; all of a patch, with the loads of the next and what decides on the skipping at the edges of the map, is about 330
// instructions for 72 HMMA. A warp often has its scheduler for itself there, so that the instructions' latency counts: the steps
// are unrolled, and a lane's pixels, its part of A and the tap it answers for are found once. One group has all of k = 15,
// M = 21, 45 of 48 column blocks, so that dy and u are read from L2 once. Partial sums go to device memory in fp32,
// [split][a][column], and are added in a fixed order by finish.cuh.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../fragment.cuh"
#include "tiles.h"

namespace gcn::cuda {

// Whether the narrow careful pass in 32 bits finds its column blocks anew in every step rather than keep them: the compiler
// spills one kernel of sm_90 if it keeps them, and some of sm_80 if it does not.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
constexpr bool kColumnsAnew = true;
#else
constexpr bool kColumnsAnew = false;
#endif

template <class M, bool kNarrow, bool kChannelsLast, int kColumnBlocks>
struct WeightGradBlock {
  using E = Element<M>;
  static constexpr int kRows = weight_grad_rows(kNarrow), kPatch = patch_pixels(sizeof(E));
  static constexpr int kABytes = weight_grad_a_bytes(kNarrow), kRowPieces = kRows / kPiece<E>;
  static constexpr int kSteps = kPatch / kDepth<E>;  // 4
  static constexpr int kOctetBytes = kOctet * int(sizeof(E));
  static constexpr int kWarps = kThreads / 32, kOctets = kRows / kOctet;
  static constexpr int kPairs = kNarrow ? kColumnBlocks / 2 / kWarps : (kColumnBlocks + 1) / 2;  // of one warp
  // Addresses of column blocks that a lane holds: of its own of each pair, where ldmatrix loads pairs; else of all.
  static constexpr int kPlaces = sizeof(E) == 2 ? kPairs : kNarrow ? 2 * kPairs : kColumnBlocks;
  static constexpr int kColumns = kNarrow ? 2 * kPairs : kColumnBlocks;  // of one warp
  static constexpr int kPieces = kABytes / kPieceBytes;
  using Accumulators = std::conditional_t<kNarrow, float[kPairs][kOctets][4], float[2][kColumnBlocks][4]>;

  static_assert(kColumns <= 32, "a lane answers for each column block");

  const WeightGradParams& p;
  const WeightGradBranch b;  // a copy, because the parameters' is indexed at run time
  unsigned char* shared;
  const int group, channel_tile, split, lane, warp;
  int first_channel = 0, first_octet = 0, octets = 0;
  int first_block = 0, columns = 0;  // the group's column blocks
  int first_column = 0;              // where the first octet's taps begin, counted from the group's columns: 0 or less
  int window_h = 0, window_w = 0, pixel_bytes = 0, stage_bytes = 0;
  int own_tap = 0;  // of the column block that this lane answers for in find_wanted()

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
    const int row = i / p.patches_w, n = row / p.patches_h;
    return {n, (row - n * p.patches_h) * p.patch_h, (i - row * p.patches_w) * p.patch_w};
  }
  GCN_DEVICE void advance(Patch& patch) const {
    patch.w += p.patch_w;
    if (patch.w < p.w) return;
    patch.w = 0, patch.h += p.patch_h;
    if (patch.h >= p.h) patch.h = 0, ++patch.n;
  }

  // Where a pixel stands in its patch. The pixels of a patch follow each other across the taps' axis where the plan can have it
  // (`by_columns`), so that the few of one step have few positions along it.
  GCN_DEVICE int row_of(int pixel) const { return b.by_columns ? pixel & (p.patch_h - 1) : pixel >> b.inner_log2; }
  GCN_DEVICE int column_of(int pixel) const { return b.by_columns ? pixel >> b.inner_log2 : pixel & (p.patch_w - 1); }

  // The column blocks of the warp, a bit each, with a tap that leads from one of the step's pixels to another place in the map.
  // Lane i answers for column block i, which past the group's last is never wanted.
  GCN_DEVICE uint32_t find_wanted(Patch patch, int step) const {
    const bool across = b.by_columns == (b.axis == 1);  // else a step may have all positions of the patch
    const int length = b.axis == 0 ? p.h : p.w, first_pixel = step * kDepth<E>;
    const int in_patch = across ? first_pixel >> b.inner_log2 : 0;
    const int width = across ? ((kDepth<E> - 1) >> b.inner_log2) + 1 : p.patch_w;  // positions
    const int first = (b.axis == 0 ? patch.h : patch.w) + in_patch, last = min(first + width, length) - 1;
    const int low = b.radius - last, high = first <= last ? length - first + b.radius : 0;
    return ballot(own_tap >= low && own_tap < high);
  }
  // The same where the tap leads from every pixel of the step to another place in the map.
  GCN_DEVICE uint32_t find_whole(Patch patch, int step) const {
    const bool across = b.by_columns == (b.axis == 1);
    const int length = b.axis == 0 ? p.h : p.w, first_pixel = step * kDepth<E>;
    const int width = across ? ((kDepth<E> - 1) >> b.inner_log2) + 1 : b.axis == 0 ? p.patch_h : p.patch_w;
    const int first = (b.axis == 0 ? patch.h : patch.w) + (across ? first_pixel >> b.inner_log2 : 0), last = first + width - 1;
    return ballot(last < length && own_tap >= b.radius - first && own_tap < length - last + b.radius);
  }

  // Of the pixels of a step that a lane holds a part of, in each of the two registers of an operand: their places in their lines.
  static constexpr int kHeld = 4 / int(sizeof(E));  // of a register
  using Held = int[2][kHeld];
  GCN_DEVICE void find_held(Held& held, Patch patch, int step) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int pixel = step * kDepth<E> + half * kDepth<E> / 2 + (lane & 3) * kHeld + i;
        held[half][i] = b.axis == 0 ? patch.h + row_of(pixel) : patch.w + column_of(pixel);
      }
    }
  }
  // The bits of the two registers that belong to pixels from which the tap leads to another place in the map.
  GCN_DEVICE void find_inside(uint32_t (&inside)[2], const Held& held, int tap) const {
    const int length = b.axis == 0 ? p.h : p.w;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      inside[half] = 0;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const bool both = (held[half][i] < length) & (unsigned(held[half][i] + tap - b.radius) < unsigned(length));
        if (both) inside[half] |= kHeld == 1 ? ~0u : 0xffffu << 16 * i;
      }
    }
  }
  GCN_DEVICE int tap_of(int column) const { return (first_block + min(column, columns - 1)) % b.taps; }

  GCN_DEVICE int find_own_tap() const {
    constexpr int kNever = 0x7fffffff;
    const int column = lane < kColumns ? kNarrow ? column_of(lane / 2, lane % 2) : lane : columns;
    return column < columns ? (first_block + column) % b.taps : kNever;
  }

  // Where a pixel of a patch, or of the window under it, stands relative to the patch's first pixel, and how far from it in
  // memory, in pieces. Kept in shared memory, because it takes divisions; what a thread loads of a narrow A
  // are the same places of every patch, and stay in registers.
  struct Place {
    int offset, h, w;
  };
  struct alignas(8) PackedPlace {
    int offset;
    uint32_t h_and_w;
  };
  static GCN_DEVICE void store_place(PackedPlace* to, Place place) {
    store_shared(reinterpret_cast<uint2*>(to), uint2{uint32_t(place.offset), uint32_t(place.h) << 16 | (place.w & 0xffff)});
  }
  static GCN_DEVICE Place load_place(const PackedPlace* from) {
    const uint2 packed = load_shared(reinterpret_cast<const uint2*>(from));
    return {int(packed.x), int(packed.y) >> 16, int16_t(packed.y)};
  }
  GCN_DEVICE PackedPlace* window_places() const {
    return reinterpret_cast<PackedPlace*>(shared + kWeightGradStages * stage_bytes);
  }
  GCN_DEVICE PackedPlace* a_places() const { return window_places() + window_h * window_w; }
  GCN_DEVICE Place a_place(int pixel) const {
    const int h = row_of(pixel), w = column_of(pixel);
    return {int(h * p.stride_h + (kChannelsLast ? w * p.stride_w : w / kPiece<E>)), h, w};
  }
  GCN_DEVICE void write_places() const {
    for (int i = threadIdx.x; i < window_h * window_w; i += kThreads) {
      const int row = i / window_w, h = row - (b.axis == 0 ? b.radius : 0);
      const int w = i - row * window_w - (b.axis == 1 ? b.radius : 0);
      store_place(window_places() + i, Place{(h * p.w + w) * (b.channels / kPiece<E>), h, w});
    }
    if constexpr (!kNarrow) {
      for (int i = threadIdx.x; i < kPatch; i += kThreads) store_place(a_places() + i, a_place(i));
    }
  }

  static constexpr int kOwnPieces = (kPieces + kThreads - 1) / kThreads;
  using OwnPlaces = Place[kNarrow ? kOwnPieces : 1];
  GCN_DEVICE void find_own_places(OwnPlaces& own) const {
    constexpr int kOutside = 0x40000000;
#pragma unroll
    for (int k = 0; k < kOwnPieces; ++k) {
      const int i = int(threadIdx.x) + k * kThreads, channel = first_channel + i % kRowPieces * kPiece<E>;
      own[k] = a_place(min(i / kRowPieces, kPatch - 1));
      own[k].offset += channel / kPiece<E>;
      if (channel >= p.channels) own[k].h = kOutside;
    }
  }

  GCN_DEVICE void load_a(unsigned char* to, Patch patch, const OwnPlaces& own) const {
    const unsigned char* map = static_cast<const unsigned char*>(p.a) + uint64_t(patch.n) * p.stride_n * kPieceBytes;
    const uint32_t corner = patch.h * p.stride_h + (kChannelsLast ? patch.w * p.stride_w : patch.w / kPiece<E>);
    if constexpr (kNarrow) {
#pragma unroll
      for (int k = 0; k < kOwnPieces; ++k) {
        const int i = int(threadIdx.x) + k * kThreads;  // an odd number of octets, as in the window
        const bool valid = (patch.h + own[k].h < p.h) & (patch.w + own[k].w < p.w);
        const uint32_t offset = valid ? corner + own[k].offset : 0;
        if (i < kPieces) copy_async<16>(to + i * kPieceBytes, map + uint64_t(offset) * kPieceBytes, valid);
      }
      return;
    }
#pragma unroll 4
    for (int i = threadIdx.x; i < kPieces; i += kThreads) {
      const int pixel = kChannelsLast ? i / kRowPieces : i % 8 * kPiece<E>;
      const int row = kChannelsLast ? i % kRowPieces * kPiece<E> : i / 8, channel = first_channel + row;
      const Place place = load_place(a_places() + pixel);
      const bool valid = (patch.h + place.h < p.h) & (patch.w + place.w < p.w) & (channel < p.channels);
      const uint32_t offset = corner + place.offset + (kChannelsLast ? channel / kPiece<E> : channel * p.stride_c);
      const int at = kChannelsLast ? swizzle_columns<E>(pixel, i % kRowPieces, kRowPieces) : swizzle_rows_128(row, i % 8);
      copy_async<16>(to + at * kPieceBytes, map + uint64_t(valid ? offset : 0) * kPieceBytes, valid);
    }
  }

  GCN_DEVICE void load_window(unsigned char* to, Patch patch) const {
    constexpr int kTogether = 3;  // pieces of M = 21, and loads in flight
    const int64_t corner = (int64_t(patch.n) * p.h + patch.h) * p.w + patch.w;
    const unsigned char* map = static_cast<const unsigned char*>(b.map) +
                               (corner * (b.channels / kPiece<E>)+first_octet * (kOctet / kPiece<E>)) * kPieceBytes;
    const int count = window_h * window_w, pieces = octets * (kOctet / kPiece<E>);
    const PackedPlace* places = window_places();
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const Place place = load_place(places + i);
      const bool valid = (unsigned(patch.h + place.h) < unsigned(p.h)) & (unsigned(patch.w + place.w) < unsigned(p.w));
      const unsigned char* from = map + int64_t(valid ? place.offset : 0) * kPieceBytes;
      unsigned char* own = to + i * pixel_bytes;
#pragma unroll 1
      for (int left = pieces; left > 0; left -= kTogether) {
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          if (k < left) copy_async<16>(own + k * kPieceBytes, from + k * kPieceBytes, valid);
        }
        own += kTogether * kPieceBytes, from += kTogether * kPieceBytes;
      }
    }
  }

  // A pixel's place in the window, for tap 0.
  GCN_DEVICE int pixel_at(int pixel) const { return (row_of(pixel) * window_w + column_of(pixel)) * pixel_bytes; }

  // The one that a lane names to ldmatrix in a narrow step of 16 bits.
  GCN_DEVICE int narrow_pixel(int step) const { return pixel_at(step * kDepth<E> + (lane >> 4) * 8 + (lane & 7)); }

  // Which of a pair's column blocks a lane names to ldmatrix in 16 bits.
  GCN_DEVICE int pair_half() const { return kNarrow ? lane >> 3 & 1 : lane >> 4; }

  // Column block i, counted from the group's first, of the pair that is number j of this warp's.
  GCN_DEVICE int column_of(int j, int i) const { return 2 * (kNarrow ? j * kWarps + warp : j) + i; }

  // sums += a b, of the pixels from which the tap of column block `column` leads to another place in the map.
  GCN_DEVICE void careful_product(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&w)[2], const Held& held,
                                  int column) const {
    uint32_t in[2];
    find_inside(in, held, tap_of(column));
    mma(sums, {a[0] & in[0], a[1] & in[0], a[2] & in[1], a[3] & in[1]}, {w[0] & in[0], w[1] & in[1]}, M{});
  }

  // `column_at`: where the lane's column blocks lie from there.
  template <bool kCareful>
  GCN_DEVICE void multiply(Accumulators& acc, const unsigned char* stage, const int (&column_at)[kPlaces], int step,
                           uint32_t wanted, Patch patch) const {
    uint32_t whole = 0;
    Held held = {};
    if constexpr (kCareful && sizeof(E) == 2) whole = find_whole(patch, step), find_held(held, patch, step);
    const auto product = [&](int i, int column, const uint32_t (&a)[4], const uint32_t (&w)[2]) {
      if (!kCareful || whole >> column & 1) return mma(acc[i][column], a, w, M{});
      careful_product(acc[i][column], a, w, held, column);
    };
    const unsigned char* window = stage + kABytes;
    const int depth0 = step * kDepth<E>;
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row0 = warp * 32 + i * 16;
      if constexpr (kChannelsLast) {
        load_a_columns<E>(a[i], stage + depth0 * kRowPieces * kPieceBytes, a_columns_at<E>(row0, kRowPieces, lane), kRowPieces);
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
        if (!(wanted & 3u << 2 * j)) continue;
        if (2 * j + 1 < kColumnBlocks) {
          uint32_t w[4];
          ldmatrix_x4_trans(w, window + pixel + column_at[j]);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            product(i, 2 * j, a[i], {w[0], w[1]});
            product(i, 2 * j + 1, a[i], {w[2], w[3]});
          }
        } else {
          uint32_t w[2];
          ldmatrix_x2_trans(w, window + pixel + column_at[j]);
#pragma unroll
          for (int i = 0; i < 2; ++i) product(i, 2 * j, a[i], w);
        }
      }
    } else {
      const int low = pixel_at(depth0 + (lane & 3)), high = pixel_at(depth0 + 4 + (lane & 3)), channel = (lane >> 2) * 4;
      if constexpr (kCareful) {
        return multiply_carefully(acc, window + channel + low, window + channel + high, a, step, wanted, patch);
      }
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

  // The end of a careful step in 32 bits, where registers are scarce: what belongs to a column block follows from the one before,
  // and nothing is kept from step to step. `low`, `high`: the lane's pixels in the window, in its channel of the first octet.
  GCN_DEVICE void multiply_carefully(Accumulators& acc, const unsigned char* low, const unsigned char* high,
                                     const uint32_t (&a)[2][4], int step, uint32_t wanted, Patch patch) const {
    Held held;
    find_held(held, patch, step);
    const int tap_bytes = (b.axis == 0 ? window_w : 1) * pixel_bytes;
    int tap = broadcast(-first_column), at = tap * tap_bytes;  // broadcast, so that it isn't computed ahead of the steps
#pragma unroll
    for (int j = 0; j < kColumnBlocks; ++j) {
      if (wanted >> j & 1) {
        uint32_t w[2] = {load_shared(reinterpret_cast<const uint32_t*>(low + at)),
                         load_shared(reinterpret_cast<const uint32_t*>(high + at))};
        round_operand<M>(w);
        uint32_t in[2];
        find_inside(in, held, tap);
        w[0] &= in[0], w[1] &= in[1];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma(acc[i][j], {a[i][0] & in[0], a[i][1] & in[0], a[i][2] & in[1], a[i][3] & in[1]}, w, M{});
        }
      }
      at += tap_bytes;
      if (++tap == b.taps) tap = 0, at += kOctetBytes - b.taps * tap_bytes;
    }
  }

  // Narrow: the pairs are the product's rows, the octets of dy its columns. Lanes hold the same numbers of either operand.
  // `pixel`: the window's place that the lane names in a step of 16 bits.
  template <bool kCareful>
  GCN_DEVICE void multiply_narrow(Accumulators& acc, const unsigned char* stage, const int (&column_at)[kPlaces], int step,
                                  int pixel, uint32_t wanted, Patch patch) const {
    uint32_t whole = 0;
    Held held = {};
    if constexpr (kCareful) whole = find_whole(patch, step), find_held(held, patch, step);
    const auto product = [&](int j, int i, const uint32_t (&w)[4], const uint32_t (&a)[2]) {
      if (!kCareful || (whole >> 2 * j & 3) == 3) return mma(acc[j][i], w, a, M{});
      // The taps of a pair's halves differ, and what is cleared of dy must not count for the other half.
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t in[2];
        find_inside(in, held, tap_of(column_of(j, half)));
        float sums[4] = {acc[j][i][0], acc[j][i][1], acc[j][i][2], acc[j][i][3]};
        mma(sums, {w[0] & in[0], w[1] & in[0], w[2] & in[1], w[3] & in[1]}, {a[0] & in[0], a[1] & in[1]}, M{});
        acc[j][i][2 * half] = sums[2 * half], acc[j][i][2 * half + 1] = sums[2 * half + 1];
      }
    };
    const unsigned char* window = stage + kABytes;
    const int depth0 = step * kDepth<E>;
    constexpr int kPixelBytes = kRows * int(sizeof(E));
    uint32_t a[kOctets][2];
    if constexpr (sizeof(E) == 2) {
      const unsigned char* own = stage + (depth0 + b_half(lane) * 8 + (lane & 7)) * kPixelBytes;
      uint32_t two[4];
      ldmatrix_x4_trans(two, own + (lane >> 4) * kOctetBytes);
      a[0][0] = two[0], a[0][1] = two[1], a[1][0] = two[2], a[1][1] = two[3];
      ldmatrix_x2_trans(a[2], own + 2 * kOctetBytes);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        if (!(wanted & 3u << 2 * j)) continue;
        uint32_t w[4];
        ldmatrix_x4_trans(w, window + pixel + column_at[j]);
#pragma unroll
        for (int i = 0; i < kOctets; ++i) product(j, i, w, a[i]);
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
        if (!(wanted & 3u << 2 * j)) continue;
        const int first = column_at[2 * j], second = column_at[2 * j + 1];
        uint32_t w[4] = {number(from_low + first), number(from_low + second), number(from_high + first),
                         number(from_high + second)};
        round_operand<M>(w);
#pragma unroll
        for (int i = 0; i < kOctets; ++i) product(j, i, w, a[i]);
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
    const int own_column = column_of(0, 0), own_row = first_channel + c_column(lane, 0);
    const int64_t row_floats = int64_t(p.blocks_per_row) * kOctet;
    float* corner = p.partial + (int64_t(split) * p.channels + own_row) * row_floats +
                    int64_t(b.first_block + first_block + own_column) * kOctet + (lane >> 2);
#pragma unroll
    for (int row = 0; row < kOctets * 2; ++row) {
      const int channel = row / 2 * kOctet + row % 2;
      if (own_row + channel >= p.channels) continue;
      float* to = corner + channel * row_floats;
#pragma unroll
      for (int column = 0; column < 2 * kPairs; ++column) {
        const int at = column_of(column / 2, column % 2) - own_column;
        if (own_column + at < columns) to[at * kOctet] = acc[column / 2][row / 2][row % 2 + column % 2 * 2];
      }
    }
  }

  // Where the lane's column blocks lie from the window's start.
  GCN_DEVICE void find_columns(int (&column_at)[kPlaces]) const {
    const int tap_bytes = (b.axis == 0 ? window_w : 1) * pixel_bytes;
    // Column blocks past the last are computed, if at all, from the last one's data and never written.
    int octet = 0, tap = 0, before = 0;
#pragma unroll
    for (int j = 0; j < kPlaces; ++j) {
      const int column = min(sizeof(E) == 2 ? column_of(j, pair_half()) : column_of(j / 2, j % 2), columns - 1);
      if (j == 0) {
        octet = (first_block + column) / b.taps, tap = (first_block + column) % b.taps;
      } else {
        for (tap += column - before; tap >= b.taps; tap -= b.taps) ++octet;
      }
      before = column;
      column_at[j] = (octet - first_octet) * kOctetBytes + tap * tap_bytes;
    }
  }

  GCN_DEVICE int first_patch(int of_split) const { return int(int64_t(p.n) * p.patches_h * p.patches_w * of_split / p.splits); }

  GCN_DEVICE void run() {
    find_block();
    write_places();
    own_tap = find_own_tap();
    OwnPlaces own{};
    if constexpr (kNarrow) find_own_places(own);
    int column_at[kPlaces];
    find_columns(column_at);
    // Narrow, 16-bit: the lanes of a pair's halves, and of the pixels', change places against B's usual ones, as A wants them.
    int pixels[kUnrolled];
#pragma unroll
    for (int step = 0; step < kUnrolled; ++step) pixels[step] = narrow_pixel(step);
    wait_for_dependencies();
    __syncthreads();  // the places are there
    Accumulators acc;
    multiply_all<false>(acc, first_patch(split), first_patch(split + 1), own, column_at, pixels);
    if (any_of_block(!all_finite(acc))) {
      // Found anew, and behind a broadcast, so that no registers are taken for it the first time.
      const int again = broadcast(split);
      multiply_all<true>(acc, first_patch(again), first_patch(again + 1), own, column_at, pixels);
    }
    if constexpr (kNarrow) {
      write_narrow(acc);
    } else {
      write(acc);
    }
  }

  // nan and inf are all that is not zero when multiplied by zero.
  static GCN_DEVICE bool all_finite(const Accumulators& acc) {
    constexpr int kFragments = int(sizeof(Accumulators) / sizeof(acc[0]));
    constexpr int kOfOne = int(sizeof(acc[0]) / sizeof(acc[0][0]));
    float probe = 0;
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
#pragma unroll
      for (int j = 0; j < kOfOne; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) probe += acc[i][j][k] * 0.0f;
      }
    }
    return probe == 0;
  }

  // Whether it holds for a thread of the block. Nothing else is in the stages any longer.
  GCN_DEVICE bool any_of_block(bool mine) const {
    uint32_t* of_warps = reinterpret_cast<uint32_t*>(shared);
    const uint32_t of_warp = ballot(mine);
    __syncthreads();
    if (lane == 0) store_shared(of_warps + warp, of_warp);
    __syncthreads();
    uint32_t any = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) any |= load_shared(of_warps + i);
    __syncthreads();
    return any != 0;
  }

  // The pixels of one step of all patches that are unrolled: see run().
  static constexpr int kUnrolled = kNarrow && sizeof(E) == 2 ? kSteps : 1;

  template <bool kCareful>
  GCN_DEVICE void multiply_all(Accumulators& acc, int first, int last, const OwnPlaces& own, const int (&column_at)[kPlaces],
                               const int (&pixels)[kUnrolled]) const {
    constexpr int kFragments = int(sizeof(Accumulators) / sizeof(acc[0]));
    constexpr int kOfOne = int(sizeof(acc[0]) / sizeof(acc[0][0]));
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
#pragma unroll
      for (int j = 0; j < kOfOne; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) acc[i][j][k] = 0;
      }
    }
    Patch patch = patch_at(first), next = patch;
    int at = 0;  // the stage of `patch`
    const auto load = [&](bool any, int stage) {
      if (any) {
        load_a(shared + stage, next, own);
        load_window(shared + stage + kABytes, next);
      }
      copy_commit();
      advance(next);
    };
    static_assert(kWeightGradStages == 2);
    load(first < last, 0);
    for (int i = first; i < last; ++i) {
      copy_wait<0>();
      __syncthreads();
      load(i + 1 < last, stage_bytes - at);
      const unsigned char* stage = shared + at;
      if constexpr (kUnrolled > 1 && !kCareful) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          multiply_narrow<false>(acc, stage, column_at, step, pixels[step], find_wanted(patch, step), patch);
        }
      } else {
#pragma unroll 1
        for (int step = 0; step < kSteps; ++step) {
          const uint32_t wanted = find_wanted(patch, step);
          if constexpr (kNarrow && kCareful && sizeof(E) == 4 && kColumnsAnew) {
            int anew[kPlaces];
            find_columns(anew);
            multiply_narrow<true>(acc, stage, anew, step, 0, wanted, patch);
          } else if constexpr (kNarrow) {
            multiply_narrow<kCareful>(acc, stage, column_at, step, sizeof(E) == 2 ? narrow_pixel(step) : 0, wanted, patch);
          } else {
            multiply<kCareful>(acc, stage, column_at, step, wanted, patch);
          }
        }
      }
      advance(patch);
      at = stage_bytes - at;
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
__global__ void __launch_bounds__(kThreads, weight_grad_blocks_per_multiprocessor(kIsFp32<M>, false))
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
  if constexpr (!kIsFp32<M>) {  // as weight_grad_compiled() says
    if (column_blocks == 21) return launch_weight_grad<M, 21>(channels_last, p, shared_bytes, s);
  }
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
