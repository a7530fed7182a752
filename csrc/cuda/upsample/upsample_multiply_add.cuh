// The products of the doubling by multiply-adds, in float32 and float64, from maps in shared memory (upsample_maps.cuh).
//
//   a unit of a convolution   of a warp: kRows x 32 pixels of a phase, a lane each, x 8 outputs. A piece of the map serves the
//                             rows of taps and 8 outputs; weights are broadcast, four at a time (two of float64).
//   a unit of sums            of a thread: the gradient of a piece of channels of x x a piece of dy's, for a row of the taps of
//                             a phase, over a share of the rows of the tile.
//
// Of float32 a piece and two rows of taps and of pixels are 128 multiply-adds to 19 loads, in 164 instructions.
#pragma once

#include "upsample_maps.cuh"

namespace gcn::cuda {

template <class E>
struct UpsampleMultiplyAdds {
  static constexpr int kUnitOutputs = kUpsampleFewOutputs, kOfPiece = kPiece<E>;
  using Piece = Elements<E, kOfPiece>;
  template <int kRows>
  struct Sums {
    E value[kRows][kUnitOutputs];
  };

  // Weights of a group of outputs: [unit][phase][row of taps][column of taps][input, of whole pieces][output].
  static GCN_DEVICE void load_weights(const UpsampleConv& conv, int group, unsigned char* shared) {
    const E* const weight = static_cast<const E*>(conv.weight);
    const int most = conv.most_taps, inputs = conv.pieces * kOfPiece, count = 4 * most * most * inputs * conv.of_group;
#pragma unroll 1
    for (int i = int(threadIdx.x); i < count; i += kUpsampleThreads) {
      const int of_unit = i % kUnitOutputs, input = i / kUnitOutputs % inputs, of_taps = i / kUnitOutputs / inputs;
      const int column = of_taps % most, row = of_taps / most % most, phase = of_taps / most / most % 4;
      const int output = group * conv.of_group + of_taps / most / most / 4 * kUnitOutputs + of_unit;
      const int tap =
          upsample_tap(conv.k, phase >> 1, conv.turned, row) * conv.k + upsample_tap(conv.k, phase & 1, conv.turned, column);
      const bool there = row < upsample_taps(conv.k, phase >> 1, conv.turned).count &&
                         column < upsample_taps(conv.k, phase & 1, conv.turned).count && output < conv.outputs &&
                         input < conv.inputs;
      const E value = there ? weight[int64_t(output) * conv.of_output + int64_t(input) * conv.of_input + tap] : E(0);
      store_shared(reinterpret_cast<E*>(shared + conv.weights) + i, value);
    }
  }

  template <int kRows>
  static GCN_DEVICE void start_from(Sums<kRows>& sums, const E* biases, int) {
#pragma unroll
    for (int output = 0; output < kUnitOutputs; ++output)
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums.value[r][output] = load_shared(biases + output);
  }

  // See UpsampleTensorCores. `of_group`: the first of the unit's outputs.
  template <int kRows>
  static GCN_DEVICE void multiply(Sums<kRows>& sums, const UpsampleConv& conv, int phase, const UpsampleMap<E>& map, int of_map,
                                  int row0, int col0, int of_group, const unsigned char* shared, int lane) {
    const UpsampleTaps taps_h = upsample_taps(conv.k, phase >> 1, conv.turned);
    const UpsampleTaps taps_w = upsample_taps(conv.k, phase & 1, conv.turned);
    const int most = conv.most_taps, of_column = conv.pieces * kOfPiece * kUnitOutputs, to_row = most * of_column;
    const bool two = taps_h.count == 2;
    const int row = map.cols * kPieceBytes;
#pragma unroll 1
    for (int column = 0; column < taps_w.count; ++column) {
      const unsigned char* from = map.at(of_map, 0, row0 + taps_h.first, col0 + taps_w.first + column + lane);
      const E* own = reinterpret_cast<const E*>(shared + conv.weights) +
                     ((of_group / kUnitOutputs * 4 + phase) * most * to_row + column * of_column);
#pragma unroll 1
      for (int piece = 0; piece < conv.pieces; ++piece, from += map.plane, own += kOfPiece * kUnitOutputs) {
        Piece pixel[kRows + 1] = {};
#pragma unroll
        for (int i = 0; i < kRows + 1; ++i) {
          if (i < kRows || two) pixel[i] = load_shared(reinterpret_cast<const Piece*>(from + i * row));
        }
#pragma unroll
        for (int tap = 0; tap < 2; ++tap) {
          if (tap == 1 && !two) continue;
#pragma unroll
          for (int e = 0; e < kOfPiece; ++e)
#pragma unroll
            for (int first = 0; first < kUnitOutputs; first += kOfPiece) {
              const Piece weights = load_shared(reinterpret_cast<const Piece*>(own + (tap * to_row + e * kUnitOutputs + first)));
#pragma unroll
              for (int output = 0; output < kOfPiece; ++output)
#pragma unroll
                for (int r = 0; r < kRows; ++r) sums.value[r][first + output] += pixel[r + tap].value[e] * weights.value[output];
            }
        }
      }
    }
  }

  template <int kRows>
  static GCN_DEVICE void stage(const Sums<kRows>& sums, const UpsampleMap<E>& map, int phase, int row0, int col0, int of_group,
                               int lane) {
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int first = 0; first < kUnitOutputs; first += kOfPiece) {
        Piece values;
#pragma unroll
        for (int output = 0; output < kOfPiece; ++output) values.value[output] = sums.value[r][first + output];
        store_shared(reinterpret_cast<Piece*>(map.at(phase, (of_group + first) / kOfPiece, row0 + r, col0 + lane)), values);
      }
  }

  // Adds the sums of a tile to the block's. Neighbouring threads have neighbouring pieces of x. Where a window is outside of the
  // image there is no product: with a zero, what is not finite would be nan.
  static GCN_DEVICE void add_up(const UpsampleTile& p, const UpsamplePlace& place, const UpsampleMap<E>& x,
                                const UpsampleMap<E>& dy, bool is_first) {
    const int most = p.conv.most_taps, of_shares = x.pieces * dy.pieces * 4 * most;
#pragma unroll 1
    for (int unit = int(threadIdx.x); unit < of_shares * p.shares; unit += kUpsampleThreads) {
      const int share = unit / of_shares, of_share = unit % of_shares;
      const int c_piece = of_share % x.pieces, o_piece = of_share / x.pieces % dy.pieces, rest = of_share / x.pieces / dy.pieces;
      const int tap = rest % most, phase = rest / most;
      const UpsampleTaps taps_h = upsample_taps(p.conv.k, phase >> 1, false), taps_w = upsample_taps(p.conv.k, phase & 1, false);
      if (tap >= taps_h.count) continue;
      const bool two = taps_w.count == 2;
      const int shift_h = taps_h.first + tap, shift_w = taps_w.first;
      E sums[2][kOfPiece][kOfPiece] = {};
#pragma unroll 1
      for (int row = share; row < place.rows; row += p.shares) {
        const int at_h = place.row0 + row + shift_h;
        if (at_h < 0 || at_h >= p.h) continue;
        const Piece* window =
            reinterpret_cast<const Piece*>(x.at(0, c_piece, kUpsampleHaloRows + row + shift_h, kUpsampleHaloCols + shift_w));
        const Piece* pixel = reinterpret_cast<const Piece*>(dy.at(phase, o_piece, kUpsampleHaloRows + row, kUpsampleHaloCols));
        Piece values = load_shared(window);
#pragma unroll 1
        for (int col = 0; col < place.cols; ++col) {
          const Piece of_dy = load_shared(pixel + col), next = load_shared(window + (col + 1));
          const int at_w = place.col0 + col + shift_w;
          if (at_w >= 0 && at_w < p.w) add_products(sums[0], of_dy, values);
          if (two && at_w + 1 < p.w) add_products(sums[1], of_dy, next);
          values = next;
        }
      }
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        if (column == 1 && !two) continue;
        const int of_kernel =
            upsample_tap(p.conv.k, phase >> 1, false, tap) * p.conv.k + upsample_tap(p.conv.k, phase & 1, false, column);
        const int64_t taps_before = (int64_t(blockIdx.x) * p.shares + share) * p.conv.k * p.conv.k + of_kernel;
        E* const part = static_cast<E*>(p.partial) + taps_before * p.o_padded * p.c_padded;
#pragma unroll
        for (int o = 0; o < kOfPiece; ++o) {
          Piece* const sum = reinterpret_cast<Piece*>(part + (int64_t(o_piece * kOfPiece + o) * p.c_padded + c_piece * kOfPiece));
          Piece sums_of_o = is_first ? Piece{} : load_global(sum);
#pragma unroll
          for (int c = 0; c < kOfPiece; ++c) sums_of_o.value[c] += sums[column][o][c];
          store_global(sum, sums_of_o);
        }
      }
    }
  }

 private:
  static GCN_DEVICE void add_products(E (&sums)[kOfPiece][kOfPiece], const Piece& of_dy, const Piece& of_x) {
#pragma unroll
    for (int o = 0; o < kOfPiece; ++o)
#pragma unroll
      for (int c = 0; c < kOfPiece; ++c) sums[o][c] += of_dy.value[o] * of_x.value[c];
  }
};

}  // namespace gcn::cuda
