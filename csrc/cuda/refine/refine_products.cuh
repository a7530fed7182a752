// The products of boundary refinement on the tensor cores, from maps in shared memory (refine_maps.cuh). A warp computes a unit:
//
//   convolution        2 x 32 pixels x 24 outputs: 48 sums a lane. Three neighbouring pixels of a map follow each other without
//                      gaps, so the depth of a row of taps is 3 x channels: 72 numbers of 24 channels, which are four steps and
//                      a half of 16. A fragment of the map serves three rows of taps, two rows of outputs and 24 of them.
//   weights' gradient  16 channels x 3 taps of 24 channels, over the pixels of the core: 40 sums a lane, with the bias's.
//
// Cost, in 16 bits, of 16 pixels and 21 channels: a convolution takes 45 products, of which 31 % multiply padding; both weights'
// gradients 112, of which 43 % do. A step of a convolution is 36 products (72 clocks of a multiprocessor) to 8 fragments of the
// map and 9 of weights (50 clocks of shared memory), and 64 instructions in all.
#pragma once

#include <type_traits>

#include "refine_maps.cuh"

namespace gcn::cuda {

// [row][half of the columns][8 outputs][accumulator]
using RefineUnitSums = float[kRefineUnitRows][2][kRefineOutputBlocks][4];

GCN_DEVICE void clear(RefineUnitSums& sums) {
#pragma unroll
  for (int j = 0; j < kRefineUnitRows; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int block = 0; block < kRefineOutputBlocks; ++block)
#pragma unroll
        for (float& s : sums[j][half][block]) s = 0;
}

// Adds the products of one step, of 32 bytes of depth or of 16: what would follow these belongs to another pixel. `own`: weights
// of this lane.
template <class M, bool kHalf>
GCN_DEVICE void multiply_step(RefineUnitSums& sums, const unsigned char* from, int row, int pixel, const uint2* own) {
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
      const unsigned char* const at = from + i * row + columns * 16 * pixel;
      uint32_t a[4] = {};
      if constexpr (kHalf) {
        uint32_t first[2];
        ldmatrix_x2(first, at);
        a[0] = first[0], a[1] = first[1];
      } else {
        ldmatrix_x4(a, at);
      }
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

// Adds the products of a unit whose first tap of the first output reads `origin`. `weights`: of its group of outputs.
template <class M>
GCN_DEVICE void multiply(RefineUnitSums& sums, const RefineMap<Element<M>>& map, const Element<M>* origin,
                         const unsigned char* weights, int lane) {
  const int pixel = map.pixel * int(sizeof(Element<M>)), row = map.cols * pixel;
  const unsigned char* from = reinterpret_cast<const unsigned char*>(origin) + a_row(lane) * pixel + a_half(lane) * kPieceBytes;
  const uint2* own = reinterpret_cast<const uint2*>(weights) + lane;
  const int whole = 3 * pixel / 32;
#pragma unroll 1
  for (int step = 0; step < whole; ++step) {
    multiply_step<M, false>(sums, from, row, pixel, own);
    from += 32, own += 3 * kRefineOutputBlocks * 32;
  }
  // Three times an odd number of pieces leave one.
  if constexpr (sizeof(Element<M>) == 2) multiply_step<M, true>(sums, from, row, pixel, own);
}

// Calls then(row, column, output, sum of that output, sum of the next) for all of a unit's outputs. The output is counted
// within the group, the pixel within the unit.
template <class Then>
GCN_DEVICE void for_outputs(const RefineUnitSums& sums, int lane, const Then& then) {
#pragma unroll
  for (int j = 0; j < kRefineUnitRows; ++j)
#pragma unroll
    for (int columns = 0; columns < 2; ++columns)
#pragma unroll
      for (int block = 0; block < kRefineOutputBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; i += 2)
          then(j, columns * 16 + c_row(lane, i), block * 8 + c_column(lane, i), sums[j][columns][block][i],
               sums[j][columns][block][i + 1]);
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

// The bits of a lane's operands that belong to the first `count` pixels of a step, of its first and of its second half. Of
// others nothing may be left: a zero times what is not finite is nan.
template <class E>
GCN_DEVICE void mask_of_pixels(uint32_t (&mask)[2], int count, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if constexpr (sizeof(E) == 4) {
      mask[half] = half * 4 + (lane & 3) < count ? ~0u : 0u;
    } else {
      const int first = half * 8 + (lane & 3) * 2;
      mask[half] = (first < count ? 0x0000ffffu : 0u) | (first + 1 < count ? 0xffff0000u : 0u);
    }
  }
}

// 16 channels of a step's pixels as rows; `at`: the first pixel. A map with fewer channels gives some of them twice.
template <class E>
GCN_DEVICE void load_channels_a(uint32_t (&a)[4], const RefineMap<E>& map, const E* at, int channel, int lane) {
  if constexpr (sizeof(E) == 2) {
    const int place = (lane >> 4) * 8 + (lane & 7), first = channel + (lane >> 3 & 1) * 8;
    ldmatrix_x4_trans(a, at + place * map.pixel + min(first, map.pixel - 8));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int place = (i >> 1) * 4 + (lane & 3), of_lane = min(channel + (i & 1) * 8, map.pixel - 8) + (lane >> 2);
      a[i] = bits_of(load_shared(at + place * map.pixel + of_lane));
    }
  }
}

// Eight channels of a step's pixels as columns.
template <class E>
GCN_DEVICE void load_channels_b(uint32_t (&b)[2], const RefineMap<E>& map, const E* at, int channel, int lane) {
  channel = min(channel, map.pixel - 8);
  if constexpr (sizeof(E) == 2) {
    ldmatrix_x2_trans(b, at + (lane & 15) * map.pixel + channel);
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) b[i] = bits_of(load_shared(at + (i * 4 + (lane & 3)) * map.pixel + channel + (lane >> 2)));
  }
}

// A unit of the weights' gradients: 16 channels of a, the taps of a row, 24 channels of b. Sums of one lane: of each tap and
// eight channels of b, then of the bias.
struct RefineGradUnit {
  int channel, dy, group;

  GCN_DEVICE RefineGradUnit(const RefineGrad& g, int unit)
      : channel(unit / g.groups / 3 * 16), dy(unit / g.groups % 3), group(unit % g.groups) {}
  GCN_DEVICE bool has_bias() const { return dy == 1 && group == 0; }
};

// a and b start at the pixels of the core's first pixel and its first tap; `rows` x `cols`: the core's part in the image.
template <class M>
GCN_DEVICE void add_up(float (&sums)[kRefineSums / 4][4], const RefineGradUnit& unit, const RefineMap<Element<M>>& a_map,
                       const Element<M>* a_first, const RefineMap<Element<M>>& b_map, const Element<M>* b_first, int rows,
                       int cols, int lane) {
  using E = Element<M>;
  constexpr int kStep = kDepth<E>;
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    const E* a_at = a_first + row * a_map.cols * a_map.pixel;
    const E* b_at = b_first + (row + unit.dy) * b_map.cols * b_map.pixel;
#pragma unroll 1
    for (int left = cols; left > 0; left -= kStep) {
      uint32_t mask[2], a[4];
      mask_of_pixels<E>(mask, left, lane);
      load_channels_a(a, a_map, a_at, unit.channel, lane);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] &= mask[i >> 1];
      if (unit.has_bias()) {
        const uint32_t ones[2] = {kRefineOnes<E>, kRefineOnes<E>};
        mma(sums[3 * kRefineOutputBlocks], a, ones, SumMath<M>{});
      }
      round_operand<M>(a);
#pragma unroll
      for (int dx = 0; dx < 3; ++dx) {
#pragma unroll
        for (int block = 0; block < kRefineOutputBlocks; ++block) {
          uint32_t b[2];
          load_channels_b(b, b_map, b_at + dx * b_map.pixel, unit.group * kRefineOutputs + block * 8, lane);
          b[0] &= mask[0], b[1] &= mask[1];
          round_operand<M>(b);
          mma(sums[dx * kRefineOutputBlocks + block], a, b, M{});
        }
      }
      a_at += kStep * a_map.pixel, b_at += kStep * b_map.pixel;
    }
  }
}

}  // namespace gcn::cuda
