// The products of the doubling on the tensor cores, in 16 bits, from maps in shared memory (upsample_maps.cuh). A warp computes:
//
//   a unit of a convolution   kRows x 32 pixels of a phase x 24 outputs. The depth is a row of taps, two pieces a step; a
//   fragment
//                             of the map serves the rows of taps and 24 outputs.
//   a unit of sums            the gradient of 16 channels of x x 24 of dy for a column of the taps of a phase, over the pixels of
//                             the tile, which are the depth.
//
// A step of a convolution of two rows of taps and of pixels is 24 products (48 clocks of a multiprocessor) to 6 fragments of the
// map and 6 of weights (36 clocks of shared memory). Of 21 channels 12 % of either side are padding.
#pragma once

#include "upsample_maps.cuh"

namespace gcn::cuda {

template <class E>
struct UpsampleTensorCores {
  static constexpr int kBlocks = kUpsampleOutputs / 8, kUnitOutputs = kUpsampleOutputs;
  template <int kRows>
  struct Sums {
    float value[kRows][2][kBlocks][4];
  };

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

  // Sums of a unit start from the biases of its outputs.
  template <int kRows>
  static GCN_DEVICE void start_from(Sums<kRows>& sums, const float* biases, int lane) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const float2 both =
          biases ? load_shared(reinterpret_cast<const float2*>(biases + block * 8 + c_column(lane, 0))) : float2{0, 0};
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int i = 0; i < 4; ++i) sums.value[r][half][block][i] = i % 2 ? both.y : both.x;
    }
  }

  // Adds the products of a phase at a unit whose first pixel is row0, col0 of the map. The first piece of `shared` is zeros: what
  // else would stand behind an odd number of pieces meets weights that are zero, but may not be finite.
  template <int kRows>
  static GCN_DEVICE void multiply(Sums<kRows>& sums, const UpsampleConv& conv, int phase, const UpsampleMap<E>& map, int of_map,
                                  int row0, int col0, int, const unsigned char* shared, int lane) {
    const UpsampleTaps taps_h = upsample_taps(conv.k, phase >> 1, conv.turned);
    const UpsampleTaps taps_w = upsample_taps(conv.k, phase & 1, conv.turned);
    const int pieces = taps_w.count * conv.pieces, to_row = conv.steps * kBlocks * 32;
    const bool two = taps_h.count == 2;
    const unsigned char* const pixel = map.at(of_map, 0, row0 + taps_h.first, col0 + taps_w.first + a_row(lane));
    const uint2* own = reinterpret_cast<const uint2*>(shared + conv.weights) + phase * conv.most_taps * to_row + lane;
#pragma unroll 1
    for (int first = 0; first < pieces; first += 2, own += kBlocks * 32) {
      const int piece = first + a_half(lane), column = int(piece >= conv.pieces);
      const bool there = piece < pieces;
      const unsigned char* const from =
          there ? pixel + ((piece - column * conv.pieces) * map.plane + column * kPieceBytes) : shared;
      const int row = there ? map.cols * kPieceBytes : 0, half = there ? 16 * kPieceBytes : 0;
      uint32_t b[2][kBlocks][2] = {};
#pragma unroll
      for (int tap = 0; tap < 2; ++tap) {
        if (tap == 1 && !two) continue;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
          const uint2 both = load_shared(own + (tap * to_row + block * 32));
          b[tap][block][0] = both.x, b[tap][block][1] = both.y;
        }
      }
#pragma unroll
      for (int i = 0; i < kRows + 1; ++i) {
        if (i == kRows && !two) continue;
#pragma unroll
        for (int columns = 0; columns < 2; ++columns) {
          uint32_t a[4];
          ldmatrix_x4(a, from + (i * row + columns * half));
#pragma unroll
          for (int tap = 0; tap < 2; ++tap) {
            if (i - tap < 0 || i - tap >= kRows || (tap == 1 && !two)) continue;
#pragma unroll
            for (int block = 0; block < kBlocks; ++block) mma(sums.value[i - tap][columns][block], a, b[tap][block], E{});
          }
        }
      }
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
            const float (&of_block)[4] = sums.value[r][half][block];
            unsigned char* const pixel = map.at(phase, block, row0 + r, col0 + half * 16 + c_row(lane, i));
            store_shared(reinterpret_cast<Pair*>(pixel) + (lane & 3),
                         Pair{from_float<E>(of_block[i]), from_float<E>(of_block[i + 1])});
          }
  }

  // --- sums over pixels

  static GCN_DEVICE int units(const UpsampleTile& p) { return 4 * p.conv.most_taps * (p.c_padded / 16) * (p.o_padded / 24); }

  // The bits of a lane's operands that belong to pixels first ... end - 1 of a step, of its first and of its second half. Of
  // others nothing may be left: a zero times what is not finite is nan.
  static GCN_DEVICE void mask_of_pixels(uint32_t (&mask)[2], int first, int end, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pixel = half * 8 + (lane & 3) * 2;
      mask[half] =
          (pixel >= first && pixel < end ? 0x0000ffffu : 0u) | (pixel + 1 >= first && pixel + 1 < end ? 0xffff0000u : 0u);
    }
  }

  struct Range {
    int first, end;
  };

  // The sums over 16 columns of the tile. A row of x meets the same row of the taps' pixels, and the one before it.
  template <bool kMasked>
  static GCN_DEVICE void add_up_columns(float (&sums)[2][kBlocks][4], const UpsampleTile& p, const UpsamplePlace& place,
                                        const UpsampleTaps& taps_h, const unsigned char* window,
                                        const unsigned char* const (&channels_at)[kBlocks], int from_first, int row_bytes,
                                        Range columns, int lane) {
    uint32_t mask[2] = {~0u, ~0u}, now[kBlocks][2] = {}, before[kBlocks][2] = {};
    if (kMasked) mask_of_pixels(mask, columns.first, columns.end, lane);
    window += from_first;
    const int rows = place.rows, above = place.row0 + taps_h.first;
#pragma unroll 2
    for (int row = 0; row < rows + taps_h.count - 1; ++row, window += row_bytes, from_first += row_bytes) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        before[block][0] = now[block][0], before[block][1] = now[block][1];
        if (row >= rows) continue;
        ldmatrix_x2_trans(now[block], channels_at[block] + from_first);
        if (kMasked) now[block][0] &= mask[0], now[block][1] &= mask[1];
      }
      if (above + row < 0 || above + row >= p.h) continue;
      uint32_t of_x[4];
      ldmatrix_x4_trans(of_x, window);
#pragma unroll
      for (int r = 0; r < 4; ++r) of_x[r] &= mask[r >> 1];
      if (row < rows) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) mma(sums[0][block], of_x, now[block], E{});
      }
      if (row > 0 && taps_h.count == 2) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) mma(sums[1][block], of_x, before[block], E{});
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
      // Pieces behind the last are others twice, and of no account.
      const int shift = taps_w.first + column, x_piece = min(window * 2 + (lane >> 3 & 1), x.pieces - 1);
      const unsigned char* const window_at =
          x.at(0, x_piece, kUpsampleHaloRows + taps_h.first, kUpsampleHaloCols + shift + (lane >> 4) * 8 + (lane & 7));
      const unsigned char* channels_at[kBlocks];
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const int piece = min(group * kBlocks + block, dy.pieces - 1);
        channels_at[block] = dy.at(phase, piece, kUpsampleHaloRows, kUpsampleHaloCols + (lane & 15));
      }
      const int first = max(0, -(place.col0 + shift)), end = min(place.cols, p.w - place.col0 - shift);
#pragma unroll 1
      for (int col = 0; col < end; col += 16) {
        if (first <= col && end >= col + 16) {
          add_up_columns<false>(sums, p, place, taps_h, window_at, channels_at, col * kPieceBytes, x.cols * kPieceBytes, {},
                                lane);
        } else {
          add_up_columns<true>(sums, p, place, taps_h, window_at, channels_at, col * kPieceBytes, x.cols * kPieceBytes,
                               {first - col, end - col}, lane);
        }
      }
#pragma unroll
      for (int tap = 0; tap < 2; ++tap) {
        if (tap >= taps_h.count) continue;
        const int of_kernel =
            upsample_tap(p.conv.k, phase >> 1, false, tap) * p.conv.k + upsample_tap(p.conv.k, phase & 1, false, column);
        const int64_t taps_before = int64_t(blockIdx.x) * p.conv.k * p.conv.k + of_kernel;
        float* const own = static_cast<float*>(p.partial) + taps_before * p.o_padded * p.c_padded;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int o = group * kUpsampleOutputs + block * 8 + c_column(lane, i), c = window * 16 + c_row(lane, i);
            float& sum = own[int64_t(o) * p.c_padded + c];
            sum = is_first ? sums[tap][block][i] : sum + sums[tap][block][i];
          }
      }
    }
  }
};

}  // namespace gcn::cuda
