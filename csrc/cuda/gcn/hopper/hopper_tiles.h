// Sizes that the Hopper kernels are compiled for; what plans choose from.
#pragma once

#include "../tiles.h"
#include "hopper_kernels.h"

namespace gcn::cuda {

constexpr int kGroupSize = 128;                 // threads of a warpgroup
constexpr int kHopperThreads = 3 * kGroupSize;  // one producer warpgroup, two consumer warpgroups
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
constexpr int kSwizzleAlignment = 1024;

constexpr int kBoxMost = 256;  // elements of a dimension that the copy engine brings at a time

constexpr int kHopperStagesMost = 8, kHopperStagesLeast = 3;  // of rings

// --- first stage: each multiplying warpgroup has 64 rows (taps and middle channels) x 34 positions of eight neighbouring lines
constexpr bool hopper_first_stage_compiled(Math math) {
  return math == Math::kHalf || math == Math::kBFloat16 || math == Math::kTf32;
}
constexpr int kBundle = 8, kRowBlock = 64;
constexpr int kLowPositions = 18, kHighPositions = 16;                       // parts of an item
constexpr int kEarlyFrom = 4, kEarlyPositions = kLowPositions - kEarlyFrom;  // and one that overlaps the first
constexpr int kPositionBytes = kBundle * kBlockBytes, kRowBlockBytes = kRowBlock * kBlockBytes;
constexpr int kWindowsMost = 4, kWindowsLeast = 2;
// A stage of weights has this many groups of taps at most: what they multiply and where is 60 bits.
constexpr int kRowStagesMost = 4, kRowStagesLeast = 2, kStageStepsMost = 5;
// At the end of an item, positions of its products that are in shared memory at a time, and the floats of them; of which all but
// the other taps of a group are completed.
constexpr int kEndPositions = 13, kEndSums = kRowBlock * kEndPositions * kBundle, kGroupTapsMost = 8;
static_assert(kEndPositions % 2 == 1 && kGroupTapsMost < kEndPositions);

// The positions of an item that a group of taps, the first of which is `base`, brings to a place in the line.
struct PositionRange {
  int from, to;
};
GCN_HOST_TOO constexpr PositionRange positions_inside(int first, int positions, int base, int length, int radius) {
  const int from = radius - base - first, to = length + from;
  return {from > 0 ? from : 0, to < positions ? to : positions};
}

// What a group of taps multiplies of an item, so that all positions inside the line are among it: the first part, or the end of
// it; the second part, or the beginning of it. Few cases, because a branch takes as long as the products of four positions.
constexpr uint32_t kLow = 1, kEarly = 2, kHigh = 4, kHighCut = 8;
constexpr int kProductBits = 4, kHighCutPositions = kHighPositions - 7;
GCN_HOST_TOO constexpr uint32_t first_stage_products(PositionRange inside) {
  if (inside.from >= inside.to) return 0;
  if (inside.to <= kLowPositions) return kLow;
  const uint32_t low = inside.from < kEarlyFrom ? kLow : inside.from < kLowPositions ? kEarly : 0;
  return low | (inside.to <= kLowPositions + kHighCutPositions ? kHighCut : kHigh);
}

GCN_HOST_TOO constexpr int hopper_first_stage_barriers_at(int windows, int window_bytes, int stages, int stage_steps) {
  return windows * 2 * window_bytes + stages * stage_steps * kRowBlockBytes + 2 * kEndSums * 4;
}
constexpr int hopper_first_stage_shared_bytes(int windows, int window_bytes, int stages, int stage_steps) {
  return kSwizzleAlignment + hopper_first_stage_barriers_at(windows, window_bytes, stages, stage_steps) +
         8 * (2 * kRowStagesMost + 4 * kWindowsMost + 1);
}

// --- weight gradient: each multiplying warpgroup has 64 channels of x, and 15 taps of three octets
constexpr int kSideChannels = 64, kStripTaps = 15, kStripOctets = 3, kPatchSide = 8;
constexpr int kWindowLong = kPatchSide + kStripTaps - 1;  // pixels of a window along the taps
constexpr int kWindowBytes = kWindowLong * kPatchSide * 16;
constexpr int kWeightGradStageBytes = (2 * 8192 + kStripOctets * kWindowBytes + 1023) / 1024 * 1024;
constexpr int hopper_weight_grad_shared_bytes(int stages) {
  return kSwizzleAlignment + stages * (kWeightGradStageBytes + 2 * 8) + 8 + 8 * 4;
}

// --- input gradient: a patch of pixels and some channels of x; either the pixels or the channels are 64 to each multiplying
// warpgroup. Columns of a product are groups of eight pixels of a row: those that stand below each other, or those of one row.
struct InputGradShape {
  bool nchw, by_row;
  int patch_h, patch_w, channels;

  constexpr GCN_HOST_TOO int pixels() const { return patch_h * patch_w; }
  constexpr GCN_HOST_TOO int products() const { return !nchw ? 1 : by_row ? patch_h : patch_w / 8; }  // of a step, in a warpgroup
  constexpr GCN_HOST_TOO int columns() const { return nchw ? pixels() / products() : channels; }      // of one of them
  constexpr GCN_HOST_TOO int rows() const { return nchw ? patch_h : patch_h / 2; }  // of pixels, in a warpgroup's products
};
constexpr GCN_HOST_TOO InputGradShape input_grad_shape(InputGradTile tile) {
  switch (tile) {
    case InputGradTile::kChannels256:
      return {false, false, 16, 8, 256};
    case InputGradTile::kChannels128:
      return {false, false, 16, 8, 128};
    case InputGradTile::kPixels4x64:
      return {true, true, 4, 64, 128};
    case InputGradTile::kPixels8x32:
      return {true, false, 8, 32, 128};
    case InputGradTile::kPixels16x16:
      return {true, false, 16, 16, 128};
    case InputGradTile::kPixels8x16:
      return {true, false, 8, 16, 128};
  }
  return {};
}
// Other than in the kernels above, sums leave some registers to producers.
constexpr int kGradProducerRegisters = 56, kGradConsumerRegisters = 224;
constexpr int kGradStagesMost = 15, kGradWeightsMost = 128 << 10;  // of the ring of weights: stages, and bytes
constexpr int kGradStaggerMost = 4;                                // stages that one warpgroup is behind the other
constexpr int hopper_input_grad_shared_bytes(int channels, int windows_bytes, int zeros_bytes, int stages) {
  return kSwizzleAlignment + stages * channels * kBlockBytes + 2 * windows_bytes + zeros_bytes + 8 * (2 * stages + 7);
}

// --- maps of few channels as operands, in input gradient and second stage: the depth runs in phases over pairs of octets. A step
// of 16 is one tap of both; of an octet without a partner it is two taps. A phase is whole k-blocks of two steps.
constexpr GCN_HOST_TOO int k_blocks_of_phase(int radius, bool pair) { return pair ? radius + 1 : radius / 2 + 1; }
constexpr GCN_HOST_TOO int k_blocks_of_map(int octets, int radius) {
  return octets / 2 * k_blocks_of_phase(radius, true) + octets % 2 * k_blocks_of_phase(radius, false);
}

// --- second stage: 24 outputs, and of a patch of 16 x 8 or 32 x 16 pixels one half to each multiplying warpgroup
constexpr int kSecondOutputs = 24;
constexpr int kSecondStageDown[] = {1, 2}, kSecondStageAcross[] = {1, 2};  // tiles of 8 x 8 pixels of a half, by size
// The staging buffer of a half's outputs in shared memory: in elements of 16 bits from one output to the next where pixels run
// fastest, so that neighbouring outputs fall into different banks; and all of them, in any order.
constexpr GCN_HOST_TOO int second_stage_pixel_row(int pixels) { return pixels + 8; }
constexpr GCN_HOST_TOO int second_stage_outputs_bytes(int pixels) { return kSecondOutputs * second_stage_pixel_row(pixels) * 2; }
// From one octet's window to the next: where neighbouring lanes have the octets of a pixel, eight of them write to all banks.
constexpr int second_stage_plane_bytes(int pixels, int octets) {
  const int step = (8 + octets - 1) / octets;
  return (pixels + ((step - pixels) & 7)) * 16;
}
constexpr GCN_HOST_TOO int second_stage_barriers_at(int weights_bytes, int windows_bytes, int zeros_bytes, int pixels_of_a_half) {
  return weights_bytes + 2 * windows_bytes + zeros_bytes + 2 * second_stage_outputs_bytes(pixels_of_a_half);
}
constexpr int hopper_second_stage_shared_bytes(int weights_bytes, int windows_bytes, int zeros_bytes, int pixels_of_a_half) {
  return kSwizzleAlignment + second_stage_barriers_at(weights_bytes, windows_bytes, zeros_bytes, pixels_of_a_half) + 8 * 10;
}

}  // namespace gcn::cuda
