// The products of the doubling on the tensor cores, in 16 bits, from maps in shared memory (upsample_maps.cuh). A warp computes:
//
//   a unit of a convolution   kRows x 32 pixels of a phase x 24 outputs. The depth is a row of taps, two pieces a step; a
//                             fragment of the map serves the rows of taps and 24 outputs.
//   a unit of sums            the gradient of 16 channels of x x 24 of dy for a column of the taps of a phase, over the pixels
//                             of the tile, which are the depth.
//
// A step of a convolution of two rows of taps and of pixels is 24 products (48 clocks of a multiprocessor) to 6 fragments of the
// map and 6 of weights (36 clocks of shared memory) and 51 instructions; one of sums 6 products to 4 fragments and 18
// instructions. Of 21 channels 12 % of either side are padding.
#pragma once

#include <cstring>

#include "../pixel_unit.cuh"
#include "upsample_maps.cuh"

namespace gcn::cuda {

template <class E>
struct UpsampleTensorCores {
  static constexpr int kBlocks = kUpsampleOutputs / 8, kUnitOutputs = kUpsampleOutputs;
  template <int kRows>
  using Sums = UnitSums<kRows, kBlocks>;

  // Weights of a group of outputs as the fragments of a product: [phase][row of taps][step][8 outputs][lane][2 words].
  static GCN_DEVICE void load_weights(const UpsampleConv& conv, int group, unsigned char* shared) {
    struct alignas(4) Word {
      E value[2];
    };
    const E* const weight = static_cast<const E*>(conv.weight);
    const int rows = conv.most_taps, words = 4 * rows * conv.steps * kBlocks * 64;
#pragma unroll 1
    for (int i = int(threadIdx.x); i < words; i += kUpsampleThreads) {
      const int lane = i >> 1 & 31, block = (i >> 6) % kBlocks, of_block = (i >> 6) / kBlocks;
      const int step = of_block % conv.steps, row = of_block / conv.steps % rows, phase = of_block / conv.steps / rows;
      const int output = group * kUpsampleOutputs + block * 8 + (lane >> 2);
      const int piece = step * 2 + (i & 1), column = int(piece >= conv.pieces),
                taps_w = upsample_taps(conv.k, phase & 1, conv.turned).count;
      const int input = (piece - column * conv.pieces) * 8 + (lane & 3) * 2;
      const int tap =
          upsample_tap(conv.k, phase >> 1, conv.turned, row) * conv.k + upsample_tap(conv.k, phase & 1, conv.turned, column);
      const bool exists =
          row < upsample_taps(conv.k, phase >> 1, conv.turned).count && piece < taps_w * conv.pieces && output < conv.outputs;
      Word word;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const bool there = exists && input + e < conv.inputs;
        word.value[e] =
            there ? weight[int64_t(output) * conv.of_output + int64_t(input + e) * conv.of_input + tap] : from_float<E>(0);
      }
      store_shared(reinterpret_cast<Word*>(shared + conv.weights) + i, word);
    }
  }

  template <int kRows>
  static GCN_DEVICE void start_from(Sums<kRows>& sums, const float* biases, int lane) {
    start_from_biases(sums, biases, lane);
  }

  // Adds the products of a phase at a unit whose first pixel is row0, col0 of the map.
  template <int kRows>
  static GCN_DEVICE void multiply(Sums<kRows>& sums, const UpsampleConv& conv, int phase, const UpsampleMap<E>& map, int of_map,
                                  int row0, int col0, int, const unsigned char* shared, int lane) {
    const UpsampleTaps taps_h = upsample_taps(conv.k, phase >> 1, conv.turned);
    const UpsampleTaps taps_w = upsample_taps(conv.k, phase & 1, conv.turned);
    const unsigned char* const pixel = map.at(of_map, 0, row0 + taps_h.first, col0 + taps_w.first + a_row(lane));
    const uint2* const own =
        reinterpret_cast<const uint2*>(shared + conv.weights) + phase * conv.most_taps * conv.steps * kBlocks * 32 + lane;
    if (taps_h.count == 2) {
      multiply_rows<2>(sums, conv, taps_w.count, map, pixel, own, lane);
    } else {
      multiply_rows<1>(sums, conv, taps_w.count, map, pixel, own, lane);
    }
  }

  // kTaps rows of taps, each of so many windows beside each other. Of an odd number of pieces the last is half a step: a zero
  // weight must not meet what stands behind it, which may not be finite.
  template <int kTaps, int kRows>
  static GCN_DEVICE void multiply_rows(Sums<kRows>& sums, const UpsampleConv& conv, int windows, const UpsampleMap<E>& map,
                                       const unsigned char* pixel, const uint2* own, int lane) {
    const int row = map.cols * kPieceBytes, to_tap = conv.steps * kBlocks * 32, of_window = conv.pieces * map.plane;
    int at = a_half(lane) * map.plane;
    int left = windows * conv.pieces;
#pragma unroll 1
    for (; left >= 2; left -= 2, at += 2 * map.plane, own += kBlocks * 32) {
      if (at >= of_window) at += kPieceBytes - of_window;  // the next window is a pixel further
      uint2 b[kTaps][kBlocks];
      load_fragments(b, own, to_tap);
#pragma unroll
      for (int i = 0; i < kRows + kTaps - 1; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t a[4];
          ldmatrix_x4(a, pixel + (at + i * row + half * 16 * kPieceBytes));
          for_taps<kTaps, kRows>(i, [&](int tap, int block) {
            const uint32_t both[2] = {b[tap][block].x, b[tap][block].y};
            mma(sums[i - tap][half][block], a, both, E{});
          });
        }
      }
    }
    if (left == 0) return;
    at = (conv.pieces - 1) * map.plane;  // of one window: those of two are an even number
    uint2 b[kTaps][kBlocks];
    load_fragments(b, own, to_tap);
#pragma unroll
    for (int i = 0; i < kRows + kTaps - 1; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t a[2];
        ldmatrix_x2(a, pixel + (at + i * row + half * 16 * kPieceBytes));
        for_taps<kTaps, kRows>(
            i, [&](int tap, int block) { mma_short(sums[i - tap][half][block], a[0], a[1], b[tap][block].x, E{}); });
      }
    }
  }

  template <int kTaps>
  static GCN_DEVICE void load_fragments(uint2 (&b)[kTaps][kBlocks], const uint2* own, int to_tap) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap)
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) b[tap][block] = load_shared(own + (tap * to_tap + block * 32));
  }

  // Calls then(tap, block) for the taps that a row of the map has, of a unit's rows.
  template <int kTaps, int kRows, class Then>
  static GCN_DEVICE void for_taps(int row, const Then& then) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      if (row - tap < 0 || row - tap >= kRows) continue;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) then(tap, block);
    }
  }

  // Rounds a unit's sums into a map, of a group of outputs, that is on its way to memory.
  template <int kRows>
  static GCN_DEVICE void stage(const Sums<kRows>& sums, const UpsampleMap<E>& map, int phase, int row0, int col0, int, int lane) {
    struct alignas(4) Pair {
      E value[2];
    };
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
#pragma unroll
          for (int i = 0; i < 4; i += 2) {
            const float (&of_block)[4] = sums[r][half][block];
            unsigned char* const pixel = map.at(phase, block, row0 + r, col0 + half * 16 + c_row(lane, i));
            store_shared(reinterpret_cast<Pair*>(pixel) + (lane & 3),
                         Pair{from_float<E>(of_block[i]), from_float<E>(of_block[i + 1])});
          }
  }

  // --- sums over pixels

  static GCN_DEVICE int units(const UpsampleTile& p) { return 4 * p.conv.most_taps * (p.c_padded / 16) * (p.o_padded / 24); }

  // What a unit of sums reads: the pixels of x that its first tap meets, and 8 channels of dy each.
  struct Operands {
    const unsigned char *x, *dy[kBlocks];

    GCN_DEVICE void advance(int bytes) {
      x += bytes;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) dy[block] += bytes;
    }
    GCN_DEVICE void load_dy(uint32_t (&channels)[kBlocks][2]) const {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) ldmatrix_x2_trans(channels[block], dy[block]);
    }
  };

  static GCN_DEVICE void add_products(float (&sums)[kBlocks][4], const uint32_t (&of_x)[4],
                                      const uint32_t (&channels)[kBlocks][2]) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) mma(sums[block], of_x, channels[block], E{});
  }

  // The sums over 16 columns of `rows` rows, all of whose products there are. A row of x meets the same row of dy's phase and,
  // where there are two taps below each other, the one before it.
  static GCN_DEVICE void add_up_whole(float (&sums)[2][kBlocks][4], Operands at, bool two, int rows, int row_bytes) {
    uint32_t of_x[4], now[kBlocks][2], before[kBlocks][2];
    ldmatrix_x4_trans(of_x, at.x);
    at.load_dy(now);
    add_products(sums[0], of_x, now);
#pragma unroll 2
    for (int row = 1; row < rows; ++row) {
      at.advance(row_bytes);
      memcpy(before, now, sizeof(now));
      ldmatrix_x4_trans(of_x, at.x);
      at.load_dy(now);
      add_products(sums[0], of_x, now);
      if (two) add_products(sums[1], of_x, before);
    }
    if (!two) return;
    ldmatrix_x4_trans(of_x, at.x + row_bytes);
    add_products(sums[1], of_x, now);
  }

  // The same at the border of the image: of the columns `first` ... `end` - 1, and rows of x from `above` on of which there are
  // `h`.
  static GCN_DEVICE void add_up_part(float (&sums)[2][kBlocks][4], Operands at, bool two, int rows, int row_bytes, int first,
                                     int end, int above, int h, int lane) {
    uint32_t mask[2];
    mask_of_pixels<E>(mask, first, end, lane);
#pragma unroll 1
    for (int row = 0; row < rows; ++row, at.advance(row_bytes)) {
      uint32_t channels[kBlocks][2];
      at.load_dy(channels);
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) channels[block][0] &= mask[0], channels[block][1] &= mask[1];
#pragma unroll
      for (int tap = 0; tap < 2; ++tap) {
        if (above + row + tap < 0 || above + row + tap >= h || (tap == 1 && !two)) continue;
        uint32_t of_x[4];
        ldmatrix_x4_trans(of_x, at.x + tap * row_bytes);
#pragma unroll
        for (int r = 0; r < 4; ++r) of_x[r] &= mask[r >> 1];
        add_products(sums[tap], of_x, channels);
      }
    }
  }

  // Adds the sums of a tile to the block's.
  static GCN_DEVICE void add_up(const UpsampleTile& p, const UpsamplePlace& place, const UpsampleMap<E>& x,
                                const UpsampleMap<E>& dy, bool is_first) {
    const int lane = int(threadIdx.x) % 32, most = p.conv.most_taps, windows = p.c_padded / 16;
#pragma unroll 1
    for (int unit = int(threadIdx.x) / 32; unit < units(p); unit += kUpsampleWarps) {
      const int window = unit % windows, column = unit / windows % most, phase = unit / windows / most % 4;
      const int group = unit / windows / most / 4;
      const UpsampleTaps taps_h = upsample_taps(p.conv.k, phase >> 1, false), taps_w = upsample_taps(p.conv.k, phase & 1, false);
      if (column >= taps_w.count) continue;
      float sums[2][kBlocks][4] = {};
      // Pieces behind the last repeat others and are not used.
      const int shift = taps_w.first + column, x_piece = min(window * 2 + (lane >> 3 & 1), x.pieces - 1);
      Operands at;
      at.x = x.at(0, x_piece, kUpsampleHaloRows + taps_h.first, kUpsampleHaloCols + shift + (lane >> 4) * 8 + (lane & 7));
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const int piece = min(group * kBlocks + block, dy.pieces - 1);
        at.dy[block] = dy.at(phase, piece, kUpsampleHaloRows, kUpsampleHaloCols + (lane & 15));
      }
      const int first = max(0, -(place.col0 + shift)), end = min(place.cols, p.w - place.col0 - shift);
      const int above = place.row0 + taps_h.first, row_bytes = x.cols * kPieceBytes;
      const bool two = taps_h.count == 2, all_rows = above >= 0 && above + place.rows + taps_h.count - 1 <= p.h;
#pragma unroll 1
      for (int col = 0; col < end; col += 16, at.advance(16 * kPieceBytes)) {
        if (all_rows && first <= col && end >= col + 16) {
          add_up_whole(sums, at, two, place.rows, row_bytes);
        } else {
          add_up_part(sums, at, two, place.rows, row_bytes, first - col, end - col, above, p.h, lane);
        }
      }
#pragma unroll
      for (int tap = 0; tap < 2; ++tap) {
        if (tap >= taps_h.count) continue;
        const int of_kernel =
            upsample_tap(p.conv.k, phase >> 1, false, tap) * p.conv.k + upsample_tap(p.conv.k, phase & 1, false, column);
        const int64_t outputs_before =
            (int64_t(blockIdx.x) * p.conv.k * p.conv.k + of_kernel) * p.o_padded + group * kUpsampleOutputs + c_column(lane, 0);
        const int64_t next = p.c_padded;
        float* output = static_cast<float*>(p.partial) + outputs_before * next + window * int64_t(16) + c_row(lane, 0);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block, output += 8 * next)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float* const sum = output + ((i % 2 ? next : 0) + i / 2 * int64_t(8));
            *sum = is_first ? sums[tap][block][i] : *sum + sums[tap][block][i];
          }
      }
    }
  }
};

}  // namespace gcn::cuda
