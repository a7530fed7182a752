// From a problem to what is launched for it: tiles, splits, shared memory, workspace, and a prediction of each launch's time.
// Everything a kernel is told about sizes is decided here; execute.cpp adds the pointers. Needs neither CUDA nor PyTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hopper/hopper_plan.h"
#include "kernels.h"

namespace gcn::cuda {

// What stands in for the plan's own choices, so that runs can be compared without building again; 0 leaves a choice to the plan.
struct Overrides {
  int first_stage_sharing = 0, first_stage_splits = 0;  // hopper: blocks of a cluster; splits of the channels
  int first_stage_ahead = 0;                            // hopper: stages of weights that one warpgroup is before the other
  int input_grad_cluster = 0, input_grad_channels = 0;  // hopper: blocks of a cluster; channels of a block, 128 or 256
  int input_grad_rows = 0, input_grad_columns = 0;      // hopper, NCHW: of a block's patch, 4 x 64, 8 x 32, 16 x 16 or 8 x 16
  int input_grad_together = 0;                          // hopper: tiles of channels with the same windows, 1 or 2
  int input_grad_portable = 0;                          // 1: the gradient of x by the portable kernel all the same
  int x_by_elements = 0;                                // 1: planes are copied as any other map
  int weight_grad_splits = 0;                           // hopper: of the pixels
  // 1: the second stage by the portable kernels; 128 or 512: by those of sm_90a, a patch of so many pixels at a time.
  int second_stage = 0;
  int second_stage_turned = 0;  // those of sm_90a, 1: with windows that are turned; 2: with windows as the maps are
};
// Reads them from text such as "first_stage_sharing=2,input_grad_cluster=1". Throws std::invalid_argument.
Overrides read_overrides(const std::string& text);

// What the plan has to know of a GPU, and the ceilings that predictions are made with.
struct Gpu {
  int multiprocessors = 132;
  int shared_per_block = 227 * 1024, shared_per_multiprocessor = 228 * 1024;
  // Assumed ceilings of an H100 SXM: clock under load; multiply-adds per clock and SM of mma.sync in 16 bits (taken as 60 % of
  // what its wgmma reaches); bytes per second of device memory, and of L2 (32 a clock and SM, between the 28 and 35 that
  // published tests of the PCIe card come to), and its size; one launch after another, and the same with programmatic dependent
  // launch.
  double clock = 1.755e9, fma_16bit = 1024, memory = 3.0e12, l2 = 7.4e12, l2_size = 50e6;
  double launch = 2.5e-6, dependent_launch = 1.0e-6;
  bool hopper = false;  // it runs the kernels of sm_90a, and the build has them
  // Clusters of two blocks, each alone on its multiprocessor, that run side by side. A cluster is within one of the groups that
  // multiprocessors come in, which differ from one GPU to another: an H100 ran 66 of two blocks, but 30 of four and 15 of eight.
  int clusters_of_two = 66;
  Generation generation = Generation::kMeasured;  // asked for
  Overrides overrides;
};

struct Sizes {
  int64_t n, c, h, w, m_l, m_r, o, k1, k2, k3, k4;
};

struct Strides {
  int64_t n, c, h, w;  // in elements
};

struct MapLayout {
  Strides strides;
  bool aligned;  // the first element stands at a multiple of 16 bytes
};

// The taps of a convolution that can touch a line of this length.
struct Taps {
  int kernel, taps, radius, skipped, axis;
};
Taps clip_taps(int64_t kernel, int64_t length, int axis);

// How the kernels read x: as it is, or as a padded map made first.
struct SourcePlan {
  bool packed, channels_last;
  Strides pieces;       // as kernels want them, in pieces
  bool planes = false;  // packed from PackMap::planes
};

struct FirstStagePlan {
  int column_blocks, tiles, splits, k_blocks, shared_bytes;
  struct Branch {
    Taps taps;
    int mid, length, interleave, overhang, group_mid, group_taps, tap_groups, groups, slots;
    bool complete;  // u is written by the first stage itself
    size_t packed_bytes, partial_bytes;
  } branch[2];
};

struct LineConvPlan {
  LineTile tile;
  int tile_h, tile_w, tiles_h, tiles_w, chunk, phases, k_blocks, n_tiles, outputs, outputs_written, shared_bytes;
  LineOrder order;
  bool vector;  // stores are whole pieces
  bool sums;    // over the pixels of what is written, for a bias's gradient
  bool out_aligned;
  Strides out;
  struct Term {
    Taps taps;
    int channels;  // padded
  };
  std::vector<Term> terms;
  size_t packed_bytes;
};

struct WeightGradPlan {
  bool narrow;
  int column_blocks, channels, patch_h, patch_w, patches_h, patches_w, splits, blocks_per_row, shared_bytes;
  struct Branch {
    Taps taps;
    int channels, blocks, groups, group_blocks, first_block, octets, inner_log2;
    bool by_columns;
  } branch[2];
  size_t partial_bytes;
};

// One launch, for people to read.
struct LaunchNote {
  std::string kernel;
  int64_t blocks;
  int threads, shared_bytes, blocks_per_multiprocessor;
  double waves, flops, bytes;  // operations that are issued, and bytes from and to device memory and L2
  double seconds;              // predicted
};

struct Plan {
  Sizes sizes;
  Math math;
  bool tensor_cores;       // else the direct kernels
  std::string why_direct;  // why not
  std::vector<LaunchNote> launches;
  size_t workspace_bytes = 0;
  HopperPlan hopper;
  double floor = 0;  // seconds: operations at the GPU's full matrix rate, or compulsory bytes
  double predicted() const;
};

struct ForwardPlan : Plan {
  Strides x_strides, y_strides;
  SourcePlan source;
  FirstStagePlan first;
  LineConvPlan second;
  // Places in the workspace.
  size_t x_at = 0, first_at[2] = {}, second_at = 0, partial_at[2] = {};
};

// What backward is asked for.
struct Wanted {
  bool x, w_l1, w_l2, w_r1, w_r2, b_l1, b_l2, b_r1, b_r2;
  bool first_stage() const { return x || w_l1 || w_r1 || b_l1 || b_r1; }  // needs du_l and du_r
};

struct BackwardPlan : Plan {
  Strides x_strides, dy_strides, dx_strides;
  Wanted wanted;
  SourcePlan source;
  LineConvPlan du[2], dx;
  WeightGradPlan first, second;
  bool du_narrow;  // the second weights' gradients, where they are narrow, can be in one launch with du
  // The biases' gradients: sums of dy, du_l and du_r over parts of their pixels, [channels][parts].
  struct Sums {
    bool wanted;
    int channels, parts;
    size_t at;  // in the workspace
  } sums[3];
  // Places in the workspace. dy and du stand there as padded maps.
  size_t x_at = 0, dy_at = 0, du_at[2] = {}, du_weights_at[2] = {}, dx_weights_at = 0;
  size_t first_partial_at = 0, second_partial_at = 0;
};

inline int padded(int64_t channels) { return int((channels + kOctet - 1) / kOctet * kOctet); }

ForwardPlan plan_forward(const Sizes&, Math, const MapLayout& x, Strides y, bool y_aligned, const Gpu&);
BackwardPlan plan_backward(const Sizes&, Math, const MapLayout& x, Strides dy, Strides dx, const Wanted&, const Gpu&);

// As JSON.
std::string describe(const ForwardPlan&);
std::string describe(const BackwardPlan&);

}  // namespace gcn::cuda
