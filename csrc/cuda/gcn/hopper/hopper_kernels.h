// The parameters of the Hopper kernels as plain structs, and their launchers: all that host code sees of them.
#pragma once

#include "../kernels.h"
#include "tensor_shape.h"

namespace gcn::cuda {

// The first stage of channels_last x, with the portable one's results. Work comes in items: some positions of eight lines.
struct HopperFirstStage {
  FirstStageParams stage;                    // its branches' groups of taps overlap: PackFirstWeights::overlap
  TensorShape x[2];                          // [N, position in the line, line, channel] of either branch
  int bundles[2];                            // of eight lines, in a map
  int segments[2], outputs[2];               // items of a bundle, and positions of an item
  int window_front[2], window_positions[2];  // of a window, those in front that nothing reads, and those that are copied
  int window_bytes, windows;                 // of one item, and how many stages their ring has
  int stages, stage_steps;                   // of the ring of weights, and groups of taps of a stage
  int ahead;                                 // stages of weights that one warpgroup starts before the other
  int sharing;                               // blocks of a cluster, which share weights: 1 or 2
};

int hopper_first_stage(Math, const HopperFirstStage&, int blocks, int shared_bytes, Stream);

// The gradients of the first weights, into the portable kernel's workspace.
struct HopperWeightGrad {
  WeightGradParams grad;    // of its patches, only how many there are counts: they are 8 x 8
  TensorShape x[2], du[2];  // [N, position in the line, line, channel] of either branch
  int stages;               // of the ring
};

int hopper_weight_grad(Math, const HopperWeightGrad&, int blocks, int shared_bytes, Stream);

// The gradient of x. What a block has of it at a time: 256 or 128 channels of 16 x 8 pixels, written as channels_last, or 128
// channels of 4 x 64, 8 x 32, 16 x 16 or 8 x 16 pixels, written as NCHW.
enum class InputGradTile : int { kChannels256, kChannels128, kPixels4x64, kPixels8x32, kPixels16x16, kPixels8x16 };

struct HopperInputGrad {
  const void* weights[2];  // PackLineWeights::to, of one branch each: [n-tile][pair of octets][k-block][output][64 bytes],
                           // for channels_last outputs in the order of output_of_lanes()
  TensorShape du[2];       // [N, H, W, channel]
  int octets[2], radius[2], k_blocks[2];
  int window_h[2], window_w[2], windows_bytes, zeros_bytes;
  void* out;
  int64_t stride_n, stride_c, stride_h, stride_w;  // of `out`, in elements
  int n, h, w, channels, n_tiles, patches_h, patches_w;
  int stages;    // of the ring of weights
  int cluster;   // blocks that share the weights they load: 1 or 2, of neighbouring patches
  int together;  // tiles of channels that follow each other with the same windows
};

int hopper_input_grad(Math, InputGradTile, const HopperInputGrad&, int blocks, int shared_bytes, Stream);

// Line convolutions of maps with few channels: y, or du_l and du_r. Branch 0 runs along rows, branch 1 along columns.
struct HopperSecondStageOut {
  void* to;
  float* sums;                                     // [outputs][patch, half]: sums over their pixels; or null
  const void* bias[2];                             // [outputs] or null
  int64_t stride_n, stride_c, stride_h, stride_w;  // in elements
  int outputs, outputs_written;                    // zeros from `outputs` on
  LineOrder order;
  bool vector;  // 16-byte stores are aligned, and whole
};

struct HopperSecondStage {
  const void* weights[2];  // PackLineWeights::to, of one branch each: [n-tile][pair of octets][k-block][output][64 bytes]
  const void* map[2];      // padded maps
  int octets[2], radius[2], k_blocks[2];  // k-blocks: of a pair, as they are packed
  int window_h[2], window_w[2], plane_bytes[2];
  int weights_bytes, windows_bytes, zeros_bytes;
  HopperSecondStageOut out[2];
  bool apart;   // each branch has an output of its own; else there is one, the sum
  bool turned;  // the windows along rows stand column by column
  int n, h, w, n_tiles, patches_h, patches_w;
};

int hopper_second_stage(Math, int patch_pixels, const HopperSecondStage&, int blocks, int shared_bytes, Stream);

// Clusters of so many blocks that the current GPU runs side by side, each block alone on its multiprocessor; or 0.
int hopper_clusters(int blocks);

// Whether these kernels are part of this build.
bool hopper_built();

}  // namespace gcn::cuda
