// What plans say of the Hopper kernels. See plan.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../../gpu.h"
#include "hopper_kernels.h"

namespace gcn::cuda {

struct HopperFirstStagePlan {  // of channels_last x
  bool used = false;
  int positions = 0;  // of an item, with those that only the sums over taps need
  int bundles[2] = {}, segments[2] = {}, outputs[2] = {}, window_front[2] = {}, window_positions[2] = {};
  int window_bytes = 0, windows = 0, stages = 0, stage_steps = 0, ahead = 0, sharing = 1, blocks = 0, shared_bytes = 0;
};

struct HopperWeightGradPlan {
  bool used = false;
  int stages = 0, blocks = 0, shared_bytes = 0;
};

struct HopperInputGradPlan {
  bool used = false;
  InputGradTile tile = InputGradTile::kChannels256;
  int n_tiles = 0, octets[2] = {}, phases[2] = {}, k_blocks[2] = {}, window_h[2] = {}, window_w[2] = {};
  int patches_h = 0, patches_w = 0, windows_bytes = 0, zeros_bytes = 0, stages = 0, cluster = 1, together = 1, blocks = 0,
      shared_bytes = 0;
  size_t packed_bytes[2] = {}, weights_at[2] = {};  // of either branch's weights, and where they are in the workspace
};

struct HopperSecondStagePlan {  // y, or du_l and du_r
  bool used = false, apart = false, turned = false;
  int patch_pixels = 0, patches_h = 0, patches_w = 0, n_tiles = 0;
  int octets[2] = {}, radius[2] = {}, phases[2] = {}, k_blocks[2] = {}, window_h[2] = {}, window_w[2] = {}, plane_bytes[2] = {};
  int weights_bytes = 0, windows_bytes = 0, zeros_bytes = 0, blocks = 0, shared_bytes = 0;
  LineOrder order[2] = {};
  bool vector[2] = {};
  size_t packed_bytes[2] = {}, weights_at[2] = {};  // of either branch's weights, and where they are in the workspace
};

struct HopperPlan {
  HopperFirstStagePlan first;
  HopperWeightGradPlan weight_grad;
  HopperInputGradPlan input_grad;
  HopperSecondStagePlan y, du;
  std::string why_portable;  // where Hopper kernels were asked for and not all are used
  // Where a measurement has chosen them: the state of the sources that it was made on.
  std::string measured_sources;
};

}  // namespace gcn::cuda
