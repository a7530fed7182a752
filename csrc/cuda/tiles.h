// The tile sizes that kernels are compiled for: what the plan chooses from, and what kernels are instantiated with.
#pragma once

#include "kernels.h"

#if defined(__CUDACC__)
#define GCN_HOST_TOO __host__ __device__
#else
#define GCN_HOST_TOO
#endif

namespace gcn::cuda {

constexpr int kThreads = 128;  // of every tensor core kernel: four warps

constexpr int element_bytes(Math math) { return math == Math::kDouble ? 8 : math == Math::kTf32 || math == Math::kFloat ? 4 : 2; }

// --- first stage: 128 pixels x (8 * column blocks), each warp 32 pixels x all columns
//
// 21 blocks of 8 columns are eleven middle channels of a 15 x 1 convolution (165 of 168 columns), 22 are seven of a 25 x 1 one
// (175 of 176), 16 are eleven of an 11 x 1 one (121 of 128) and three of a 41 x 1 one. With 168 accumulators a thread, two blocks
// of 128 threads share an SM, and one block's epilogue runs under the other's main loop.
constexpr int kFirstStageColumnBlocks[] = {8, 16, 21, 22};
constexpr bool first_stage_compiled(Math math, int column_blocks) {
  // More accumulators would spill: where three products make one, and where tf32 operands are rounded in registers.
  return math == Math::kFloat ? column_blocks == 8 : math != Math::kTf32 || column_blocks <= 21;
}
constexpr int kFirstStageStages = 3;
constexpr int kGroupMidMax = 32;              // bounds the block's sums of finished middle channels in shared memory
constexpr int kScratchRow = kTilePixels + 4;  // floats: 4 of 32 banks further each column

constexpr int kFirstStageMaskBytes = kThreads / 32 * 2 * 4;  // of each warp's two fragments: which column blocks they want

constexpr int first_stage_stage_bytes(int column_blocks) { return (kTilePixels + 8 * column_blocks) * kBlockBytes; }
constexpr int first_stage_scratch_columns(int column_blocks) { return 8 * ((column_blocks + 1) / 2); }
constexpr int first_stage_shared_bytes(int column_blocks, int sums) {
  const int loop = kFirstStageStages * first_stage_stage_bytes(column_blocks) + kFirstStageMaskBytes;
  const int epilogue = (first_stage_scratch_columns(column_blocks) * kScratchRow + sums) * 4;
  return loop > epilogue ? loop : epilogue;
}

// --- line convolution: warps along pixels, output channels and depth; 16-pixel and 8-channel blocks of each warp
struct LineTileShape {
  int warps_m, warps_n, warps_k, blocks_m, blocks_n;
  constexpr int pixels() const { return warps_m * blocks_m * 16; }
  constexpr int outputs() const { return warps_n * blocks_n * 8; }
};

constexpr LineTileShape line_tile_shape(LineTile tile) {
  switch (tile) {
    case LineTile::kNarrow:  // 21 classes: second stage and its input gradients
      return {4, 1, 1, 4, 3};
    case LineTile::kNarrowSmall:  // the same for small maps: eight times the blocks, the warps share the depth
      return {1, 1, 4, 2, 3};
    case LineTile::kMedium:  // 25 ... 64 output channels
      return {4, 1, 1, 2, 8};
    case LineTile::kWide:  // gradient of x: 32 HMMA to 8 ldmatrix in each step of a warp
      return {2, 2, 1, 4, 8};
    case LineTile::kWideSmall:  // the same for small maps
      return {2, 2, 1, 2, 4};
  }
  return {};
}

constexpr bool line_conv_compiled(Math math, LineTile tile) { return math != Math::kFloat || tile != LineTile::kWide; }

// As far as registers go: 222 for kWide, 150 or less for kMedium, 128 or less for the others.
constexpr int line_blocks_per_multiprocessor(LineTile tile) {
  return tile == LineTile::kWide ? 2 : tile == LineTile::kMedium ? 3 : 4;
}

constexpr int kLineStages = 3;
constexpr int line_stage_bytes(LineTileShape s) { return s.outputs() * kBlockBytes * s.warps_k; }

// --- weight gradient: 128 (or, narrow, 32) channels of a x (8 * column blocks), K-tiles of `patch_pixels` pixels
constexpr int kWeightGradColumnBlocks[] = {15, 21};
constexpr bool weight_grad_compiled(Math math, int column_blocks) { return math != Math::kFloat || column_blocks == 15; }
constexpr int kWeightGradStages = 2;
constexpr int weight_grad_rows(bool narrow) { return narrow ? 32 : 128; }
constexpr int patch_pixels(int element_bytes) { return 128 / element_bytes; }
constexpr int weight_grad_a_bytes(bool narrow) { return weight_grad_rows(narrow) * 128; }
constexpr int kWeightGradPlaceBytes = 8;  // what is kept of each pixel of a patch and of its window

// Bytes from one pixel of a window in shared memory to the next: an odd number of units, so that eight neighbouring pixels fall
// into eight different groups of banks.
GCN_HOST_TOO constexpr int window_pixel_bytes(int units, int unit_bytes) { return (units | 1) * unit_bytes; }

}  // namespace gcn::cuda
