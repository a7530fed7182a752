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

// --- prepare: shares of a map's pixels, each for one block and some of the channels at a time

constexpr int kPrepareBlocks = 1024;                      // enough loads in flight to fill the memory of a large GPU
constexpr int kSquarePixels = 128, kSquareChannels = 32;  // that go through shared memory at a time

constexpr GCN_HOST_TOO int pack_map_across(int channels) { return (channels + kSquareChannels - 1) / kSquareChannels; }

constexpr int pack_map_shares(int64_t pixels, int channels) {
  const int64_t squares = (pixels + kSquarePixels - 1) / kSquarePixels, across = pack_map_across(channels);
  const int64_t blocks = across < kPrepareBlocks ? kPrepareBlocks / across : 1;
  return int(squares < blocks ? squares : blocks);
}

// Tiles of planes, a block each.
constexpr int kPlanePixels = 128, kPlaneChannels = 64;

constexpr GCN_HOST_TOO int plane_tiles(int64_t pixels) { return int((pixels + kPlanePixels - 1) / kPlanePixels); }
constexpr GCN_HOST_TOO int plane_tiles_across(int channels) { return (channels + kPlaneChannels - 1) / kPlaneChannels; }

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

// In front of the stages: of each pixel where it stands in x and u, of each fragment which column blocks it wants.
constexpr int kFirstStageTableBytes = kTilePixels * 8 + 128;
static_assert(kTilePixels / 16 * 4 <= 128 && kFirstStageTableBytes % 128 == 0);

// Floats from one middle channel's sums to the next: two of 32 banks further.
constexpr GCN_HOST_TOO int first_stage_sums_row(int extent) { return (extent + 29) / 32 * 32 + 2; }

constexpr int first_stage_stage_bytes(int column_blocks) { return (kTilePixels + 8 * column_blocks) * kBlockBytes; }
constexpr int first_stage_scratch_columns(int column_blocks) { return 8 * ((column_blocks + 1) / 2); }
constexpr int first_stage_shared_bytes(int column_blocks, int sums) {
  const int loop = kFirstStageStages * first_stage_stage_bytes(column_blocks);
  const int epilogue = (first_stage_scratch_columns(column_blocks) * kScratchRow + sums) * 4;
  return kFirstStageTableBytes + (loop > epilogue ? loop : epilogue);
}

// From weights as they are given: behind the stages, where each column's weights are. Compiled for these column blocks.
constexpr bool unpacked_first_stage_compiled(Math math, int column_blocks) {
  return element_bytes(math) == 2 && (column_blocks == 8 || column_blocks == 21);
}
constexpr int unpacked_first_stage_shared_bytes(int column_blocks, int sums) {
  const int loop = kFirstStageTableBytes + kFirstStageStages * first_stage_stage_bytes(column_blocks) + 8 * column_blocks * 4;
  const int packed = first_stage_shared_bytes(column_blocks, sums);
  return loop > packed ? loop : packed;
}
// Counters of finished splits: of how many workspaces, and how many tiles of a call may be split.
constexpr int kTicketSlots = 128, kTicketsOfACall = 256;

// --- line convolution: warps along pixels, output channels and depth; 16-pixel and 8-channel blocks of each warp, and k-blocks
// that it multiplies between two barriers
struct LineTileShape {
  int warps_m, warps_n, warps_k, blocks_m, blocks_n, k_blocks;
  constexpr GCN_HOST_TOO int pixels() const { return warps_m * blocks_m * 16; }
  constexpr GCN_HOST_TOO int outputs() const { return warps_n * blocks_n * 8; }
};

// What an H100 took for a tile's instructions in 16 bits, in clocks: of a multiprocessor full of blocks, for a k-block and for
// the rest of a block; and of a block alone, for each k-block of a warp.
struct LineClocks {
  double k_block, block, alone;
};

// One line for each tile, in the order of LineTile: all that is known of it. Blocks side by side on a multiprocessor are as many
// as registers allow: 255 of them for kWide, 168 for kMedium, 128 for the others. Of the clocks, those of tiles that were not
// measured are taken to be like kWide's.
struct LineTileTraits {
  const char* name;
  LineTileShape shape;
  int blocks_per_multiprocessor;
  LineClocks clocks;
};
constexpr LineTileTraits kLineTiles[] = {
    // 21 classes: second stage and its input gradients
    {"narrow", {4, 1, 1, 4, 3, 2}, 4, {340, 3300, 900}},
    // the same for small maps: eight times the blocks, the warps share the depth
    {"narrow, small map", {1, 1, 4, 2, 3, 1}, 4, {100, 4000, 900}},
    // 25 ... 64 output channels
    {"medium", {4, 1, 1, 2, 8, 1}, 3, {330, 3300, 900}},
    // gradient of x: 32 HMMA to 8 ldmatrix in each step of a warp
    {"wide", {2, 2, 1, 4, 8, 1}, 2, {660, 3300, 1200}},
    // the same for small maps
    {"wide, small map", {2, 2, 1, 2, 4, 1}, 4, {165, 3300, 900}},
};
constexpr int kLineTileCount = sizeof(kLineTiles) / sizeof(kLineTiles[0]);

constexpr const LineTileTraits& line_tile(LineTile tile) { return kLineTiles[static_cast<int>(tile)]; }
constexpr LineTileShape line_tile_shape(LineTile tile) { return line_tile(tile).shape; }

constexpr GCN_HOST_TOO int log2_of(unsigned power) {
  return int((power & 0xaaaaaaaau) != 0) | int((power & 0xccccccccu) != 0) << 1 | int((power & 0xf0f0f0f0u) != 0) << 2 |
         int((power & 0xff00ff00u) != 0) << 3 | int((power & 0xffff0000u) != 0) << 4;
}

struct LinePixel {
  int h, w;  // in a rectangle
};

// How the 16-pixel fragments lie in a block's rectangle, whose sides are powers of two: patches of 4 x 4 pixels where both sides
// are that long, because a patch that is short along both axes needs few taps at the edges of the map. Patches are dealt out so
// that any row of them, and any column, is spread evenly over the warps: each warp has its own tensor core, and what an edge
// spares is a row or a column. Where a row has fewer patches than there are warps, that holds for `even_rows` rows together.
struct LinePatches {
  int log_h, log_w;           // of a patch, in pixels
  int log_rows, log_columns;  // of patches
  int log_warps;

  constexpr GCN_HOST_TOO int h() const { return 1 << log_h; }
  constexpr GCN_HOST_TOO int w() const { return 1 << log_w; }
  constexpr GCN_HOST_TOO int even_rows() const { return 1 << (log_warps > log_columns ? log_warps - log_columns : 0); }
  constexpr GCN_HOST_TOO int even_columns() const { return 1 << (log_warps > log_rows ? log_warps - log_rows : 0); }

  // The number, row by row, of the patch that is fragment i of a warp.
  constexpr GCN_HOST_TOO int patch(int warp, int i) const {
    const int first = i << log_warps, turn = (first >> (log_columns > log_warps ? log_columns : log_warps)) * even_columns();
    return first + ((warp - turn) & ((1 << log_warps) - 1));
  }
  // The first pixel of a patch.
  constexpr GCN_HOST_TOO int top(int patch) const { return patch >> log_columns << log_h; }
  constexpr GCN_HOST_TOO int left(int patch) const { return (patch & ((1 << log_columns) - 1)) << log_w; }
  // The pixel that is row `row` of fragment i of a warp.
  constexpr GCN_HOST_TOO LinePixel pixel(int warp, int i, int row) const {
    const int at = patch(warp, i);
    return {top(at) + (row >> log_w), left(at) + (row & (w() - 1))};
  }
};

constexpr GCN_HOST_TOO LinePatches line_patches(int tile_h, int tile_w, int warps_m) {
  const int log_tile_h = log2_of(tile_h), log_tile_w = log2_of(tile_w);
  const int log_h = log_tile_w < 2 ? 4 - log_tile_w : log_tile_h < 2 ? log_tile_h : 2, log_w = 4 - log_h;
  return {log_h, log_w, log_tile_h - log_h, log_tile_w - log_w, log2_of(warps_m)};
}

// The taps that lead from any of `count` neighbouring positions of a line to another place in it: first to last, or last < first.
struct TapRange {
  int first, last;
};

constexpr GCN_HOST_TOO TapRange taps_inside(int position, int count, int length, int taps, int radius) {
  if (position >= length) return {0, -1};
  const int end = position + count < length ? position + count : length, most = length - 1 - position + radius;
  return {radius >= end ? radius - end + 1 : 0, most < taps - 1 ? most : taps - 1};
}

// From one row of a window to the next. The eight pixels that a row of ldmatrix addresses names are `patch_w` neighbours in each
// of several rows: with this step they fall into eight different groups of banks.
constexpr GCN_HOST_TOO int window_row_bytes(int width, int pixel_bytes, int patch_w) {
  const int pieces = width * pixel_bytes / kPieceBytes;
  return (pieces + (patch_w < 8 ? (patch_w - pieces) & 7 : 0)) * kPieceBytes;
}

// The steps of the depth, four entries a k-block, and for each of its two products the fragments that need it, a bit each.
constexpr GCN_HOST_TOO int line_table_bytes(int k_blocks) {
  return (k_blocks * 20 + kPieceBytes - 1) / kPieceBytes * kPieceBytes;
}

// The staging buffer of the output tile in shared memory: from one row to the next, in pieces, and all of it, in either order.
constexpr GCN_HOST_TOO int line_tile_row(int pieces) { return pieces | 1; }
constexpr GCN_HOST_TOO int line_tile_bytes(LineTileShape s, int element_bytes) {
  const int piece = kPieceBytes / element_bytes;
  const int channels_last = s.pixels() * line_tile_row(s.outputs() / piece),
            others = s.outputs() * line_tile_row(s.pixels() / piece);
  return (channels_last > others ? channels_last : others) * kPieceBytes;
}

constexpr bool line_conv_compiled(Math math, LineTile tile) { return math != Math::kFloat || tile != LineTile::kWide; }

// What makes one product out of three (true float32) takes more registers.
constexpr int line_blocks_per_multiprocessor(bool three_products, LineTile tile) {
  return three_products ? 2 : line_tile(tile).blocks_per_multiprocessor;
}

// Of the ring of weights, each with a round's: three small ones or two large ones.
constexpr GCN_HOST_TOO int line_stages(LineTileShape s) { return s.k_blocks > 1 ? 2 : 3; }
constexpr GCN_HOST_TOO int line_round(LineTileShape s) { return s.warps_k * s.k_blocks; }  // k-blocks
constexpr GCN_HOST_TOO int line_stage_bytes(LineTileShape s) { return s.outputs() * kBlockBytes * line_round(s); }

// --- weight gradient: 128 (or, narrow, 24) channels of a x (8 * column blocks), K-tiles of `patch_pixels` pixels
constexpr int kWeightGradColumnBlocks[] = {15, 21};
constexpr int kNarrowColumnBlocks = 48;  // of four warps: 45 are all of k = 15, M = 21
constexpr int kNarrowDeal = 8;           // column blocks that are dealt out to the warps together: a pair each
constexpr bool weight_grad_compiled(Math math, int column_blocks) { return math != Math::kFloat || column_blocks == 15; }
constexpr int kWeightGradStages = 2;
constexpr int weight_grad_rows(bool narrow) { return narrow ? 24 : 128; }
// As far as registers go. Narrow ones share a kernel with line convolutions.
constexpr int weight_grad_blocks_per_multiprocessor(bool three_products, bool narrow) {
  return narrow && !three_products ? 3 : 2;
}
constexpr int patch_pixels(int element_bytes) { return 128 / element_bytes; }
constexpr int weight_grad_a_bytes(bool narrow) { return weight_grad_rows(narrow) * 128; }
constexpr int kWeightGradPlaceBytes = 8;  // what is kept of each pixel of a patch and of its window

// Bytes from one pixel of a window in shared memory to the next: an odd number of units, so that eight neighbouring pixels fall
// into eight different groups of banks.
GCN_HOST_TOO constexpr int window_pixel_bytes(int units, int unit_bytes) { return (units | 1) * unit_bytes; }

}  // namespace gcn::cuda
