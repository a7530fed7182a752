// What plans have to know of a GPU and of a map.
#pragma once

#include <cstdint>
#include <string>

namespace gcn::cuda {

// Which kernels run: those of every GPU since sm_80; where they take the problem, those of sm_90a; or those of sm_90a only where
// they have been measured to be faster, which is what runs unless another is asked for.
enum class Generation { kMeasured, kPortable, kHopper };

// What stands in for the plan's own choices, so that runs can be compared without building again; 0 leaves a choice to the plan.
struct Overrides {
  int first_stage_sharing = 0, first_stage_splits = 0;  // hopper: blocks of a cluster; also unpacked: splits of the channels
  int first_stage_ahead = 0;                            // hopper: stages of weights that one warpgroup is before the other
  int input_grad_cluster = 0, input_grad_channels = 0;  // hopper: blocks of a cluster; channels of a block, 128 or 256
  int input_grad_rows = 0, input_grad_columns = 0;      // hopper, NCHW: of a block's patch, 4 x 64, 8 x 32, 16 x 16 or 8 x 16
  int input_grad_together = 0;                          // hopper: tiles of channels with the same windows, 1 or 2
  int input_grad_portable = 0;                          // 1: the gradient of x by the portable kernel all the same
  int x_by_elements = 0;                                // 1: planes are copied as any other map
  int unpacked_weights = 0;                             // 1: forward without a launch that packs weights; 2: with it
  int weight_grad_splits = 0;                           // hopper: of the pixels
  // 1: the second stage by the portable kernels; 128 or 512: by those of sm_90a, a patch of so many pixels at a time.
  int second_stage = 0;
  int strips_banded = 0;        // strips in 16 bits or tf32: 1 by multiply-adds; 2 on the tensor cores, wherever they fit
  int refine_march = 0;         // 1: refinement forward by the kernel of sm_90a, wherever it takes the problem
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

struct Strides {
  int64_t n, c, h, w;  // in elements
};

struct MapLayout {
  Strides strides;
  bool aligned;  // the first element stands at a multiple of 16 bytes
};

}  // namespace gcn::cuda
