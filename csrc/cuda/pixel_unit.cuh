// What products on the tensor cores whose rows are pixels have in common: a warp's unit is some rows of 32 pixels by blocks of 8
// outputs; and where pixels are the depth of a product instead, those outside of the image are masked.
#pragma once

#include "fragment.cuh"

namespace gcn::cuda {

// [row][half of the columns][8 outputs][accumulator]
template <int kRows, int kBlocks>
using UnitSums = float[kRows][2][kBlocks][4];

// Sums of a unit start from the biases of its outputs.
template <int kRows, int kBlocks>
GCN_DEVICE void start_from_biases(UnitSums<kRows, kBlocks>& sums, const float* biases, int lane) {
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    const float2 both = load_shared(reinterpret_cast<const float2*>(biases + block * 8 + c_column(lane, 0)));
#pragma unroll
    for (int row = 0; row < kRows; ++row)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[row][half][block][i] = i % 2 ? both.y : both.x;
  }
}

// The bits of a lane's operands that belong to pixels first ... end - 1 of a step of the depth, of its first and of its second
// half. Of others nothing may be left: a zero times what is not finite is nan.
template <class E>
GCN_DEVICE void mask_of_pixels(uint32_t (&mask)[2], int first, int end, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if constexpr (sizeof(E) == 4) {
      const int pixel = half * 4 + (lane & 3);
      mask[half] = pixel >= first && pixel < end ? ~0u : 0u;
    } else {
      const int pixel = half * 8 + (lane & 3) * 2;
      mask[half] =
          (pixel >= first && pixel < end ? 0x0000ffffu : 0u) | (pixel + 1 >= first && pixel + 1 < end ? 0xffff0000u : 0u);
    }
  }
}

}  // namespace gcn::cuda
