// From a problem to what is launched for it: tiles, splits, shared memory, workspace, and a prediction of each launch's time.
// Everything a kernel is told about sizes is decided here; execute.cpp adds the pointers. Needs neither CUDA nor PyTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../gpu.h"
#include "hopper/hopper_plan.h"
#include "kernels.h"

namespace gcn::cuda {

struct Sizes {
  int64_t n, c, h, w, m_l, m_r, o, k1, k2, k3, k4;
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

// Forward in two launches, whose kernels read the weights as they are given.
struct UnpackedPlan {
  bool used = false;
  bool tickets = false;  // what is split is completed by a tile's last block
  FirstStagePlan first;
  LineConvPlan second;
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
  bool unpacked = false, tickets = false;  // as UnpackedPlan has them
  std::string why_packed;                  // where unpacked weights were asked for and are packed all the same
  // Places in the workspace.
  size_t x_at = 0, first_at[2] = {}, second_at = 0, partial_at[2] = {}, counters_at = 0;
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

// Whether kernels can read the channels of these weights 16 bytes at a time, at offsets of 32 bits.
bool in_whole_pieces(const StridedWeights&, int64_t outputs, int64_t kernel, Math);

// `whole_weights`: of both branches' first weights.
ForwardPlan plan_forward(const Sizes&, Math, const MapLayout& x, Strides y, bool y_aligned, bool whole_weights, const Gpu&);
BackwardPlan plan_backward(const Sizes&, Math, const MapLayout& x, Strides dy, Strides dx, const Wanted&, const Gpu&);

// As JSON.
std::string describe(const ForwardPlan&);
std::string describe(const BackwardPlan&);

}  // namespace gcn::cuda
