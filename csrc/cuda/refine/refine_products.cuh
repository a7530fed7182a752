// The products of boundary refinement on the tensor cores, from maps in shared memory (refine_maps.cuh). A warp computes a unit:
//
//   convolution        2 x 32 pixels x 24 outputs: 48 sums a lane. The depth is a row of taps (RefinePixel), two pieces a step. A
//                      fragment of the map serves three rows of taps, two rows of outputs and 24 of them.
//   weights' gradient  16 numbers of the depth of a row of taps, which are channels and columns of taps, x three rows of
//                      taps x 24 channels, over the pixels of the core: 36 sums a lane. Of four rows of pixels a fragment of the
//                      windows serves three of them, and 24 channels. Biases are units of their own.
//
// Cost, in 16 bits, of 16 pixels and 21 channels: a convolution takes 36 products and a gradient 36, of which 14 % multiply
// padding, and 3 for the bias. A step of a convolution is 36 products (72 clocks of a multiprocessor) to 8 fragments of the map
// and 9 of weights (50 clocks of shared memory) and 73 instructions; one of a gradient, 4 x 16 pixels, 36 products to 6
// fragments of the windows and 12 of the other map (48 clocks) and 150 instructions.
#pragma once

#include <type_traits>

#include "../pixel_unit.cuh"
#include "refine_maps.cuh"

namespace gcn::cuda {

using RefineUnitSums = UnitSums<kRefineUnitRows, kRefineOutputBlocks>;

// Adds the products of a unit whose first tap of the first output reads row0, col0. `weights` and `places`: of load_weights(), of
// its group of outputs; `zeros`: a piece of them. What else would stand there meets weights that are zero, but may not be finite.
template <class M>
GCN_DEVICE void multiply(RefineUnitSums& sums, const RefineMap<Element<M>>& map, int row0, int col0, int steps,
                         const unsigned char* weights, const unsigned char* places, const unsigned char* zeros, int lane) {
  const unsigned char* const pixel = map.at(row0, col0 + a_row(lane));
  const uint2* own = reinterpret_cast<const uint2*>(weights) + lane;
  const int* place = reinterpret_cast<const int*>(places) + a_half(lane);
#pragma unroll 1
  for (int step = 0; step < steps; ++step, place += 2, own += 3 * kRefineOutputBlocks * 32) {
    const int at = load_shared(place);
    const bool there = at != kRefineZeros;
    const unsigned char* const from = there ? pixel + at : zeros;
    const int row = there ? map.cols * kPieceBytes : 0, half = there ? 16 * kPieceBytes : 0;
    uint32_t b[3][kRefineOutputBlocks][2];
#pragma unroll
    for (int dy = 0; dy < 3; ++dy) {
#pragma unroll
      for (int block = 0; block < kRefineOutputBlocks; ++block) {
        const uint2 both = load_shared(own + (dy * kRefineOutputBlocks + block) * 32);
        b[dy][block][0] = both.x, b[dy][block][1] = both.y;
      }
    }
#pragma unroll
    for (int i = 0; i < kRefineUnitRows + 2; ++i) {
#pragma unroll
      for (int columns = 0; columns < 2; ++columns) {
        uint32_t a[4];
        ldmatrix_x4(a, from + i * row + columns * half);
        round_operand<M>(a);
#pragma unroll
        for (int dy = 0; dy < 3; ++dy) {
          if (i - dy < 0 || i - dy >= kRefineUnitRows) continue;
#pragma unroll
          for (int block = 0; block < kRefineOutputBlocks; ++block) mma(sums[i - dy][columns][block], a, b[dy][block], M{});
        }
      }
    }
  }
}

// Calls then(bytes from the unit's first pixel, sum of an output, sum of the next) for a lane's pixels of a block of outputs.
// c_row(lane, 0) is the lane's first pixel; `row`: the bytes of a row.
template <class Then>
GCN_DEVICE void for_pixels(const RefineUnitSums& sums, int block, int row, const Then& then) {
#pragma unroll
  for (int j = 0; j < kRefineUnitRows; ++j)
#pragma unroll
    for (int columns = 0; columns < 2; ++columns)
#pragma unroll
      for (int i = 0; i < 4; i += 2)
        then(j * row + (columns * 16 + i * 4) * kPieceBytes, sums[j][columns][block][i], sums[j][columns][block][i + 1]);
}

// --- gradients of weights: pixels are the depth of the product

// Ones as an operand: what is multiplied with them is added up.
template <class E>
constexpr uint32_t kRefineOnes = 0x3f800000u;
template <>
inline constexpr uint32_t kRefineOnes<Half> = 0x3c003c00u;
template <>
inline constexpr uint32_t kRefineOnes<BFloat16> = 0x3f803f80u;

// How they are: sums are no products, whose factors tf32 may round.
template <class M>
using SumMath = std::conditional_t<kIsTf32<M>, Fp32, M>;

// Rows of pixels that are multiplied at a time. Three products for one take more registers.
template <class M>
constexpr int kRefineGradRows = kIsFp32<M> ? 2 : 4;

// A unit of the weights' gradients.
struct RefineGradUnit {
  int window, group;
  bool is_bias;

  GCN_DEVICE RefineGradUnit(const RefineGrad& g, int unit) : window(unit), group(0) {
    for (; window > g.windows; window -= g.windows + 1) ++group;  // few: no division
    is_bias = window == g.windows;
  }
};

// Where a lane finds its numbers of 16 rows of the product, in bytes from the first pixel of a step: numbers of the depth of a
// row of taps. Those behind the last repeat others and are not used.
template <class E>
GCN_DEVICE void find_windows(int (&at)[2], const RefineMap<E>& map, int window, int lane) {
  const int most = refine_depth(map.pixel) - 1, plane = map.plane;
  if constexpr (sizeof(E) == 2) {
    const int piece = min(window * 2 + (lane >> 3 & 1), most), pixel = (lane >> 4) * 8 + (lane & 7);
    at[0] = at[1] = refine_depth_at(map.pixel, piece, plane) + pixel * kPieceBytes;
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int piece = min(window * 4 + i * 2 + (lane >> 4), most);
      at[i] = refine_depth_at(map.pixel, piece, plane) + (lane & 3) * kPieceBytes + (lane >> 2 & 3) * 4;
    }
  }
}

template <class E>
GCN_DEVICE void load_windows(uint32_t (&a)[4], const unsigned char* pixel, const int (&at)[2]) {
  if constexpr (sizeof(E) == 2) {
    ldmatrix_x4_trans(a, pixel + at[0]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = load_shared(reinterpret_cast<const uint32_t*>(pixel + at[i & 1] + (i >> 1) * 4 * kPieceBytes));
  }
}

// The same of the 24 channels of a group.
template <class E>
GCN_DEVICE void find_channels(int (&at)[kRefineOutputBlocks], const RefineMap<E>& map, int group, int lane) {
  const int most = map.pieces() - 1, plane = map.plane;
#pragma unroll
  for (int block = 0; block < kRefineOutputBlocks; ++block) {
    const int first = (group * kRefineOutputBlocks + block) * 8 / kPiece<E>;
    if constexpr (sizeof(E) == 2) {
      at[block] = min(first, most) * plane + (lane & 15) * kPieceBytes;
    } else {
      at[block] = min(first + (lane >> 4), most) * plane + (lane & 3) * kPieceBytes + (lane >> 2 & 3) * 4;
    }
  }
}

template <class E>
GCN_DEVICE void load_channels(uint32_t (&b)[2], const unsigned char* pixel, int at) {
  if constexpr (sizeof(E) == 2) {
    ldmatrix_x2_trans(b, pixel + at);
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) b[i] = load_shared(reinterpret_cast<const uint32_t*>(pixel + at + i * 4 * kPieceBytes));
  }
}

// [row of taps][8 channels of a][accumulator]: rows of the product are numbers of the windows. Of a bias the first is the sum.
using RefineGradSums = float[3][kRefineOutputBlocks][4];

// The products of a step of pixels: of `rows` rows, at most kRefineGradRows. Where it is known to be so many, nothing is decided
// on the way.
template <class M, bool kAllRows>
GCN_DEVICE void add_up_rows(RefineGradSums& sums, const unsigned char* a_at, int a_row,
                            const int (&channels_at)[kRefineOutputBlocks], const unsigned char* b_at, int b_row,
                            const int (&windows_at)[2], const uint32_t (&mask)[2], int rows) {
  using E = Element<M>;
  constexpr int kRows = kRefineGradRows<M>;
  uint32_t channels[kRows][kRefineOutputBlocks][2];
#pragma unroll
  for (int j = 0; j < kRows; ++j) {
    if (!kAllRows && j >= rows) continue;
#pragma unroll
    for (int block = 0; block < kRefineOutputBlocks; ++block) {
      load_channels<E>(channels[j][block], a_at + j * a_row, channels_at[block]);
      channels[j][block][0] &= mask[0], channels[j][block][1] &= mask[1];
      round_operand<M>(channels[j][block]);
    }
  }
#pragma unroll
  for (int i = 0; i < kRows + 2; ++i) {
    if (!kAllRows && i >= rows + 2) continue;
    uint32_t windows[4];
    load_windows<E>(windows, b_at + i * b_row, windows_at);
#pragma unroll
    for (int r = 0; r < 4; ++r) windows[r] &= mask[r >> 1];
    round_operand<M>(windows);
#pragma unroll
    for (int dy = 0; dy < 3; ++dy) {
      if (i - dy < 0 || i - dy >= kRows || (!kAllRows && i - dy >= rows)) continue;
#pragma unroll
      for (int block = 0; block < kRefineOutputBlocks; ++block) mma(sums[dy][block], windows, channels[i - dy][block], M{});
    }
  }
}

// a_first and b_first: the core's first pixel in a, and that of its first tap in b; `rows` x `cols`: the core's part in the
// image.
template <class M>
GCN_DEVICE void add_up(RefineGradSums& sums, const RefineGradUnit& unit, const RefineMap<Element<M>>& a_map,
                       const unsigned char* a_first, const RefineMap<Element<M>>& b_map, const unsigned char* b_first, int rows,
                       int cols, int lane) {
  using E = Element<M>;
  constexpr int kStep = kDepth<E>, kRows = kRefineGradRows<M>;
  const int a_row = a_map.cols * kPieceBytes, b_row = b_map.cols * kPieceBytes;
  int windows_at[2], channels_at[kRefineOutputBlocks];
  find_windows(windows_at, b_map, unit.window, lane);
  find_channels(channels_at, a_map, unit.group, lane);
#pragma unroll 1
  for (int left = cols; left > 0; left -= kStep, a_first += kStep * kPieceBytes, b_first += kStep * kPieceBytes) {
    uint32_t mask[2];
    mask_of_pixels<E>(mask, 0, left, lane);
    const unsigned char *a_at = a_first, *b_at = b_first;
    int rows_left = rows;
#pragma unroll 1
    for (; rows_left >= kRows; rows_left -= kRows, a_at += kRows * a_row, b_at += kRows * b_row)
      add_up_rows<M, true>(sums, a_at, a_row, channels_at, b_at, b_row, windows_at, mask, kRows);
    if (rows_left) add_up_rows<M, false>(sums, a_at, a_row, channels_at, b_at, b_row, windows_at, mask, rows_left);
  }
}

// The sums over the pixels themselves.
template <class M>
GCN_DEVICE void add_up_bias(RefineGradSums& sums, int group, const RefineMap<Element<M>>& a_map, const unsigned char* a_first,
                            int rows, int cols, int lane) {
  using E = Element<M>;
  constexpr int kStep = kDepth<E>;
  const uint32_t ones[4] = {kRefineOnes<E>, kRefineOnes<E>, kRefineOnes<E>, kRefineOnes<E>};
  int channels_at[kRefineOutputBlocks];
  find_channels(channels_at, a_map, group, lane);
#pragma unroll 1
  for (int left = cols; left > 0; left -= kStep, a_first += kStep * kPieceBytes) {
    uint32_t mask[2];
    mask_of_pixels<E>(mask, 0, left, lane);
#pragma unroll 1
    for (int row = 0; row < rows; ++row) {
#pragma unroll
      for (int block = 0; block < kRefineOutputBlocks; ++block) {
        uint32_t channels[2];
        load_channels<E>(channels, a_first + row * a_map.cols * kPieceBytes, channels_at[block]);
        channels[0] &= mask[0], channels[1] &= mask[1];
        mma(sums[0][block], ones, channels, SumMath<M>{});
      }
    }
  }
}

}  // namespace gcn::cuda
