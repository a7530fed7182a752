// The end of a line convolution's block (line_conv.cuh): its accumulators become a tile of outputs in shared memory, in the place
// of the windows, and from there whole rows of `out`. Behind the tile are each warp's sums of pixels, for the gradients of
// biases.
#pragma once

#include "../fragment.cuh"
#include "../indices.cuh"
#include "tiles.h"

namespace gcn::cuda {

template <class M, LineTile kTile>
struct LineConvOutput {
  using E = Element<M>;
  static constexpr LineTileShape kShape = line_tile_shape(kTile);
  static constexpr int kPixels = kShape.pixels(), kOutputs = kShape.outputs();
  // The tile of outputs in shared memory: rows of an odd number of pieces, so that neighbours fall into different banks. The sums
  // of pixels lie behind any order of it.
  static constexpr int kOutputRow = line_tile_row(kOutputs / kPiece<E>) * kPiece<E>;
  static constexpr int kPixelRow = line_tile_row(kPixels / kPiece<E>) * kPiece<E>;
  static constexpr int kSumsAt = line_tile_bytes(kShape, int(sizeof(E)));

  using Accumulators = float[kShape.blocks_m][kShape.blocks_n][4];

  const LineConv& p;
  unsigned char* shared;
  const int lane, warp_m, warp_n, warp_k;
  const int rectangle, n_tile;
  const int n, h0, w0;  // of the rectangle
  const LinePatches patches;

  // The pixel that is row `row` of a fragment; the block's fragments are numbered warp by warp.
  GCN_DEVICE LinePixel pixel_of(int fragment, int row) const {
    return patches.pixel(fragment / kShape.blocks_m, fragment % kShape.blocks_m, row);
  }

  // The pixel with this number, row by row.
  GCN_DEVICE LinePixel pixel_at(int number) const {
    const int log_w = patches.log_columns + patches.log_w;
    return {number >> log_w, number & ((1 << log_w) - 1)};
  }

  // Adds the accumulators of the warps that share the depth, in their order, into those of the first.
  GCN_DEVICE void add_warps(Accumulators& acc) const {
    constexpr int kCount = kShape.blocks_m * kShape.blocks_n * 4;
    float* sums = reinterpret_cast<float*>(shared);
    float* mine = &acc[0][0][0];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (warp_k > 0) store_shared(sums + ((warp_k - 1) * kCount + i) * 32 + lane, mine[i]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      for (int k = 1; k < kShape.warps_k && warp_k == 0; ++k) mine[i] += load_shared(sums + ((k - 1) * kCount + i) * 32 + lane);
    }
    __syncthreads();
  }

  // Sums of each warp's pixels inside the map: [warp][output of the tile].
  GCN_DEVICE void add_pixels(const Accumulators& acc, float* sums) const {
    const int rows = p.h - h0, columns = p.w - w0;
    uint32_t inside = 0;
#pragma unroll
    for (int i = 0; i < 2 * kShape.blocks_m; ++i) {
      const LinePixel pixel = pixel_of(warp_m * kShape.blocks_m + i / 2, c_row(lane, i % 2 * 2));
      inside |= uint32_t((pixel.h < rows) & (pixel.w < columns)) << i;
    }
#pragma unroll
    for (int column = 0; column < 2 * kShape.blocks_n; ++column) {
      const int j = column / 2, odd = column % 2;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 2 * kShape.blocks_m; ++i) {
        if (inside >> i & 1) sum += acc[i / 2][j][i % 2 * 2 + odd];
      }
#pragma unroll
      for (int apart = 4; apart < 32; apart *= 2) sum += shuffle_xor(sum, apart);  // lanes with the same columns
      if (lane < 4) store_shared(sums + warp_m * kOutputs + (warp_n * kShape.blocks_n + j) * 8 + c_column(lane, odd), sum);
    }
  }

  struct alignas(2 * sizeof(E)) Pair {
    E first, second;
  };

  // From one row of the rectangle to the next in a tile of rows.
  GCN_DEVICE int row_elements() const { return int(unsigned(p.tile_w * p.outputs + kPiece<E> - 1) / kPiece<E>) * kPiece<E>; }

  // Of both convolutions.
  GCN_DEVICE void add_bias(Accumulators& acc) const {
    const int own_output = n_tile * kOutputs + warp_n * kShape.blocks_n * 8 + c_column(lane, 0);
    const E *first = static_cast<const E*>(p.bias[0]), *second = static_cast<const E*>(p.bias[1]);
    if (!first && !second) return;
#pragma unroll
    for (int i = 0; i < 2 * kShape.blocks_n; ++i) {
      const int output = own_output + i / 2 * 8 + i % 2;
      float bias = 0;
      if (first && output < p.outputs) bias += to_float(first[output]);
      if (second && output < p.outputs) bias += to_float(second[output]);
#pragma unroll
      for (int row = 0; row < 2 * kShape.blocks_m; ++row) acc[row / 2][i / 2][row % 2 * 2 + i % 2] += bias;
    }
  }

  // The accumulators go to shared memory, in the order of LineOrder. Pixels of kOutputs are in the order of the
  // fragments; those of kPixels are row by row, which puts the two rows of a 4 x 4 patch that a store touches into the same banks
  // where the rectangle is 16 wide or more: two passes instead of one.
  template <LineOrder kOrder>
  GCN_DEVICE void fill_tile(const Accumulators& acc) const {
    const int own_output = warp_n * kShape.blocks_n * 8 + c_column(lane, 0), outputs = p.outputs - n_tile * kOutputs;
    const int row = row_elements();
#pragma unroll
    for (int i = 0; i < 2 * kShape.blocks_m; ++i) {
      const int fragment = warp_m * kShape.blocks_m + i / 2, fragment_row = c_row(lane, i % 2 * 2);
      const LinePixel pixel = pixel_of(fragment, fragment_row);
      const int at = kOrder == LineOrder::kOutputs  ? (fragment * 16 + fragment_row) * kOutputRow + own_output
                     : kOrder == LineOrder::kPixels ? own_output * kPixelRow + pixel.h * p.tile_w + pixel.w
                                                    : pixel.h * row + pixel.w * outputs + own_output;
      E* to = reinterpret_cast<E*>(shared) + at;
#pragma unroll
      for (int j = 0; j < kShape.blocks_n; ++j) {
        const bool used[2] = {own_output + j * 8 < outputs, own_output + j * 8 + 1 < outputs};
        // Padding is zero, whatever Inf * 0 made of it.
        const auto value = [&](int odd) { return from_float<E>(used[odd] ? acc[i / 2][j][i % 2 * 2 + odd] : 0.0f); };
        if constexpr (kOrder == LineOrder::kOutputs) {
          store_shared(reinterpret_cast<Pair*>(to + j * 8), Pair{value(0), value(1)});
        } else if constexpr (kOrder == LineOrder::kPixels) {
          store_shared(to + j * 8 * kPixelRow, value(0));
          store_shared(to + (j * 8 + 1) * kPixelRow, value(1));
        } else {  // behind the last output is the next pixel
          if (used[0]) store_shared(to + j * 8, value(0));
          if (used[1]) store_shared(to + (j * 8 + 1), value(1));
        }
      }
    }
  }

  // Neighbouring threads write neighbours, `kWidth` elements each: a piece or a single one.
  template <int kWidth>
  static GCN_DEVICE void copy_out(E* to, const E* from) {
    if constexpr (kWidth == 1) {
      *to = load_shared(from);
    } else {
      *reinterpret_cast<uint4*>(to) = load_shared(reinterpret_cast<const uint4*>(from));
    }
  }

  template <LineOrder kOrder, int kWidth>
  GCN_DEVICE void write_tile() const {
    const E* tile = reinterpret_cast<const E*>(shared);
    const int rows = p.h - h0, columns = p.w - w0, outputs = p.outputs_written - n_tile * kOutputs;
    const int64_t stride_h = p.stride_h, stride_w = p.stride_w, stride_c = p.stride_c;
    E* corner = static_cast<E*>(p.out) + (n * p.stride_n + h0 * stride_h + w0 * stride_w + n_tile * kOutputs * stride_c);
    if constexpr (kOrder == LineOrder::kRows) {
      const int row = row_elements(), inside = min(columns, p.tile_w) * outputs;
      const Divisor per_row = divisor_of(row / kWidth);
#pragma unroll 1
      for (int i = threadIdx.x; i < min(rows, p.tile_h) * per_row.divisor; i += kThreads) {
        const int h = per_row.quotient(i), at = (i - h * per_row.divisor) * kWidth;
        if (at < inside) copy_out<kWidth>(corner + (h * stride_h + at), tile + h * row + at);
      }
    } else {
      constexpr bool kByPixel = kOrder == LineOrder::kOutputs;
      constexpr int kMinor = (kByPixel ? kOutputs : kPixels) / kWidth, kMajor = kByPixel ? kPixels : kOutputs;
#pragma unroll 1
      for (int i = threadIdx.x; i < kMajor * kMinor; i += kThreads) {
        const int major = i / kMinor, minor = i % kMinor * kWidth, o = kByPixel ? minor : major;
        const LinePixel pixel = kByPixel ? pixel_of(major / 16, major % 16) : pixel_at(minor);
        if (pixel.h >= rows || pixel.w >= columns || o >= outputs) continue;  // a piece is inside as a whole, or not at all
        copy_out<kWidth>(corner + (pixel.h * stride_h + pixel.w * stride_w + o * stride_c),
                         tile + major * (kByPixel ? kOutputRow : kPixelRow) + minor);
      }
    }
  }

  GCN_DEVICE void write_sums(const float* sums) const {
    const int rectangles = p.n * p.tiles_h * p.tiles_w, first_output = n_tile * kOutputs;
    for (int i = threadIdx.x; i < kOutputs && first_output + i < p.outputs; i += kThreads) {
      float sum = 0;
      for (int warp = 0; warp < kShape.warps_m; ++warp) sum += load_shared(sums + warp * kOutputs + i);
      p.sums[int64_t(first_output + i) * rectangles + rectangle] = sum;
    }
  }

  template <LineOrder kOrder>
  GCN_DEVICE void write_as(const Accumulators& acc) const {
    if (warp_k == 0) fill_tile<kOrder>(acc);
    __syncthreads();
    if (p.vector) {
      write_tile<kOrder, kPiece<E>>();
    } else {
      write_tile<kOrder, 1>();
    }
  }

  GCN_DEVICE void write(Accumulators& acc) const {
    if constexpr (kShape.warps_k > 1) add_warps(acc);
    float* sums = reinterpret_cast<float*>(shared + kSumsAt);
    if (p.sums && warp_k == 0) add_pixels(acc, sums);
    add_bias(acc);
    switch (p.order) {
      case LineOrder::kOutputs:
        write_as<LineOrder::kOutputs>(acc);
        break;
      case LineOrder::kPixels:
        write_as<LineOrder::kPixels>(acc);
        break;
      case LineOrder::kRows:
        write_as<LineOrder::kRows>(acc);
    }
    if (p.sums) write_sums(sums);
  }
};

}  // namespace gcn::cuda
