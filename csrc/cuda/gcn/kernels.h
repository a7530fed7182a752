// The parameters of every CUDA kernel as plain structs, and their launchers: all that host code sees of the kernels.
//
// Maps that kernels hand to each other are "padded maps": [N, H, W, channels], dense, the channels rounded up to a multiple of 8
// and the padding zero, so that every pixel is whole 16-byte pieces and a product over the channels needs no mask.
//
// A "line" is a column of the map for a k x 1 convolution (axis 0) and a row for a 1 x k one (axis 1). Taps that can only ever
// touch the zero padding (|tap - radius| >= length of the line) are left out by the plan: `taps` and `radius` below are what is
// left, `skipped` counts the taps left out in front.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../operands.h"

namespace gcn::cuda {

constexpr int kBlockBytes = 64;   // depth of one k-block of a matrix product: two steps of the tensor cores
constexpr int kTilePixels = 128;  // pixels of a first-stage tile

// --- prepare: copies into the layouts that the kernels below read ---------------------------------------------------------

// Any strided map -> padded map, and the sums of its channels over the pixels, which are bias gradients.
struct PackMap {
  const void* from;
  void* to;                                        // [N, H, W, padded], or null: sums only
  int64_t stride_n, stride_c, stride_h, stride_w;  // of `from`, in elements
  int n, h, w, channels, padded;
  int shares;   // of the pixels, a block each
  void* sums;   // [channels][share] in the accumulator's type, or null
  bool planes;  // of 16 bits, NCHW, each channel's pixels whole pieces without gaps; no sums
};

// First weights -> [group][k-block][column][64 bytes], column = (tap, m), m fastest; see swizzle_rows().
struct PackFirstWeights {
  StridedWeights from;
  void* to;
  int mid, channels, kernel;                            // sizes of `from`
  int skipped;                                          // taps left out in front
  int columns;                                          // of one group, with padding
  int group_mid, group_taps, tap_groups, groups, taps;  // as in FirstStageBranch
  int k_blocks;
  bool overlap;  // all groups of taps have group_taps, so that the last may begin before the one before it ends
};

// Weights of a line convolution -> [n-tile][phase][k-block][output channel of the tile][64 bytes].
struct PackLineWeights {
  struct Term {
    StridedWeights from;
    int inputs, padded;  // input channels, and those of the padded map
    int kernel, skipped, taps;
    bool flip;  // tap t of the packed weights is tap kernel - 1 - t of `from`
  } term[2];
  void* to;
  int terms, outputs, tile_outputs, n_tiles, chunk, phases, k_blocks;
  bool of_lanes;  // rows are in the order of output_of_lanes()
};

struct PrepareParams {
  PackMap map[2];
  PackFirstWeights first[2];
  PackLineWeights line[4];
  int maps, firsts, lines;
};

// --- first stage: u_l and u_r from x --------------------------------------------------------------------------------------

struct FirstStageBranch {
  const void* weights;  // PackFirstWeights::to
  const void* bias;     // [mid] or null; added here only where `u` is written
  void* u;              // padded map, where every sum is complete within one block; or null and
  float* partial;       // [slot][tile][mid][extent], slot = (split, group of taps)
  int mid, mid_padded;
  int taps, radius;
  int length;      // of a line
  int interleave;  // neighbouring lines that alternate in a tile, a power of two: pixel order (line / G, position, line % G)
  int overhang;    // positions on either side of a tile that its pixels contribute to; 0 if tiles hold whole lines
  int group_mid;   // middle channels of one block
  int group_taps;  // taps of one block, all of them if tap_groups is 1
  int tap_groups, groups;
};

struct FirstStageParams {
  const void* x;
  bool x_given;                                     // not made by the launch before
  uint32_t stride_n, stride_c, stride_h, stride_w;  // of x, in pieces; the contiguous dimension's is not used
  int n, c, h, w;
  int tiles, splits, k_blocks;
  FirstStageBranch branch[2];  // 0: columns (u_l), 1: rows (u_r)
};

// Sums the slots and overhangs of the first stage in a fixed order, adds the bias, writes u.
struct CombineParams {
  FirstStageBranch branch[2];
  const void* bias[2];
  void* u[2];
  int n, h, w, tiles, slots[2];
};

// The same from weights as they are given, in 16 bits, without a launch that packs them: of every middle channel and tap the
// channels of x are whole pieces. What is split over the channels is completed by the block that takes a tile's last ticket.
struct UnpackedFirstStage {
  FirstStageParams stage;  // overhang 0, one group of taps; with splits, `u` and `partial` are both given
  StridedWeights weights[2];
  int skipped[2];  // taps left out in front
  // With splits: the first of the call's counters, see tickets.h; or -1, and they are in the workspace, and zero.
  int tickets;
  uint32_t* counters;
};

// --- line convolution: y, du_l and du_r, dx ------------------------------------------------------------------------------

struct LineTerm {
  const void* map;  // padded map
  int channels;     // of the map, with padding
  int taps, radius, axis;
};

// The order of outputs in the staging buffer of a block, with what is contiguous in `out` last: the outputs of each pixel
// (channels_last), the pixels of each output (NCHW), or, of a map in channels_last whose pixels are no whole pieces but follow
// each other without gaps, the rows of its rectangle.
enum class LineOrder : int { kOutputs, kPixels, kRows };

struct LineConv {
  LineTerm term[2];
  int terms;
  const void* weights;  // PackLineWeights::to
  const void* bias[2];  // [outputs] or null
  void* out;
  float* sums;                                     // [outputs][rectangle]: sums over their pixels; or null
  int64_t stride_n, stride_c, stride_h, stride_w;  // of `out`, in elements
  int outputs, outputs_written;                    // zeros from `outputs` on
  LineOrder order;
  bool vector;  // 16-byte stores are aligned, and whole
  int n, h, w;
  int tile_h, tile_w, tiles_h, tiles_w;
  int chunk, phases, k_blocks;  // channels of the maps that are in shared memory at a time; k-blocks per phase in `weights`
};

struct LineConvParams {
  LineConv job[2];
};

// The second stage from weights as they are given, in 16 bits: each block packs them for itself, into shared memory, while the
// launch before is still running.
struct UnpackedSecondStage {
  LineConv job;             // of LineTile::kNarrowSmall, in one phase
  PackLineWeights weights;  // where they go to is not used
};

enum class LineTile : int { kNarrow, kNarrowSmall, kMedium, kWide, kWideSmall };

// --- weight gradients -----------------------------------------------------------------------------------------------------

struct WeightGradBranch {
  const void* map;  // padded map
  int channels;     // with padding
  int taps, radius, axis;
  int blocks;        // of 8 columns: channels / 8 * taps, tap fastest
  int groups;        // thread blocks over them
  int group_blocks;  // of one of them
  int first_block;   // where they stand in a row of `partial`
  int octets;        // octets of channels that one group may touch
  bool by_columns;   // order of a patch's pixels: columns one after the other, else rows
  int inner_log2;    // length of one of them
};

struct WeightGradParams {
  const void* a;
  uint32_t stride_n, stride_c, stride_h, stride_w;  // of a, in pieces
  int channels;                                     // of a
  int n, h, w;
  int patch_h, patch_w, patches_h, patches_w;  // of a patch: powers of two
  int splits, blocks_per_row;
  float* partial;  // [split][channels][blocks_per_row][8]
  WeightGradBranch branch[2];
};

// --- gradients of the second stage in one launch: du_l and du_r, and what is left of dw_l2 and dw_r2 to be added -----------

struct SecondStageGradParams {
  LineConvParams du;
  int jobs;             // of du: 0 or 2
  WeightGradParams dw;  // narrow
  int dw_blocks;        // thread blocks, before those of du; or 0
};

// --- the end of backward: adds what was left in parts --------------------------------------------------------------------

struct FinishWeightGrad {
  const float* partial;
  StridedWeightGrad out;  // a is the outputs of these weights, b their inputs
  bool taps_follow;       // in memory; else the elements of a do, as far as neighbours among threads go
  int splits, channels_a, channels_b, blocks_per_row, first_block, taps, skipped, kernel;
  bool flip;
};

struct FinishBiasGrad {
  const void* partial;  // [channels][part], in the accumulator's type: PackMap::sums or LineConv::sums
  void* out[2];         // [channels], or null
  int channels, parts;
};

struct FinishParams {
  FinishWeightGrad weight[4];
  FinishBiasGrad bias[3];
  int weights, biases;
};

// --- direct kernels: any size, any dtype, no tensor cores -----------------------------------------------------------------

struct DirectConv {
  struct Term {
    StridedMap map;
    StridedWeights weights;
    int inputs, kernel, axis;
    bool flip;
    const void* bias;
  } term[2];
  int terms;
  void* out;
  int64_t stride_n, stride_c, stride_h, stride_w;
  int outputs, outputs_written, n, h, w;
};

struct DirectWeightGrad {
  StridedMap a, b;        // out(a, b, t) = sum over pixels of a[p] b[p + t - kernel / 2]
  StridedWeightGrad out;  // a is the outputs of these weights, b their inputs
  int channels_a, channels_b, kernel, axis, n, h, w;
  bool flip;
};

// --- launchers ------------------------------------------------------------------------------------------------------------

int prepare(Math, const PrepareParams&, Stream);
int first_stage(Math, int column_blocks, bool channels_last, const FirstStageParams&, int shared_bytes, Stream);
// Zeros, by a node of its own; what follows it is no dependent launch.
int clear(void* to, size_t bytes, Stream);
int unpacked_first_stage(Math, int column_blocks, const UnpackedFirstStage&, int shared_bytes, Stream);
int unpacked_second_stage(Math, const UnpackedSecondStage&, int shared_bytes, Stream);
int combine(Math, const CombineParams&, Stream);
int line_conv(Math, LineTile, const LineConvParams&, int jobs, int shared_bytes, Stream);
int weight_grad(Math, bool channels_last, int column_blocks, const WeightGradParams&, int shared_bytes, Stream);
int second_stage_grad(Math, LineTile, const SecondStageGradParams&, int shared_bytes, Stream);
int finish(Math, const FinishParams&, Stream);
int direct_conv(Math, const DirectConv&, Stream);
int direct_weight_grad(Math, const DirectWeightGrad&, Stream);

}  // namespace gcn::cuda
