// How plans ask for the Hopper kernels.
#pragma once

#include <algorithm>
#include <string>

#include "../cost.h"
#include "../plan.h"

namespace gcn::cuda {

constexpr const char* kNotHere = "the kernels of sm_90a are not in this build, or the GPU is another one";

// The share of its nominal rate that wgmma is taken to reach under load: cost.h's 16-bit rate is 60 % of what it reaches.
inline double wgmma_fma_per_clock(const Gpu& gpu) { return gpu.fma_16bit / 0.6; }

// Whether a choice of the plan's is left to it, or is the one asked for.
inline bool allowed(int asked, int64_t choice) { return asked == 0 || asked == choice; }

// How many clusters of one or two blocks run side by side, each block alone on its multiprocessor.
inline int64_t clusters_side_by_side(int blocks, const Gpu& gpu) {
  return blocks == 1 ? gpu.multiprocessors : std::min(gpu.multiprocessors / 2, gpu.clusters_of_two);
}

// Asked for, or measured to be faster, which the plan then says: whether any of them, and whether the second stage's.
struct WantsHopper {
  bool any, second_stage;
};
WantsHopper wants_hopper(const Sizes&, Math, bool backward, const Gpu&, HopperPlan&);

// Changes the plan of the first stage to one that the Hopper kernel runs; or returns why that is not possible.
std::string plan_hopper_first_stage(const Sizes&, Math, const Gpu&, FirstStagePlan&, HopperFirstStagePlan&);
void note_hopper_first_stage(Plan&, const FirstStagePlan&, const HopperFirstStagePlan&, const Traffic&, const Gpu&);

// The same of the first weights' gradients.
std::string plan_hopper_weight_grad(const Sizes&, Math, const SourcePlan&, const Gpu&, WeightGradPlan&, HopperWeightGradPlan&);
void note_hopper_weight_grad(Plan&, const WeightGradPlan&, const HopperWeightGradPlan&, const Traffic&, const Gpu&);

// The same of the gradient of x, whose portable plan stays as it is.
std::string plan_hopper_input_grad(const Sizes&, Math, const Gpu&, const LineConvPlan&, HopperInputGradPlan&);
void note_hopper_input_grad(Plan&, const HopperInputGradPlan&, const Traffic&, const Gpu&);

// The same of line convolutions of maps with few channels, branch 0 along rows and branch 1 along columns: into one map, of which
// both plans are given, or into two.
struct SecondStageBranch {
  Taps taps;
  int channels;  // of the map, padded
};
std::string plan_hopper_second_stage(const Sizes&, Math, const Gpu&, const SecondStageBranch (&)[2],
                                     const LineConvPlan* const (&outs)[2], HopperSecondStagePlan&);
void note_hopper_second_stage(Plan&, const char* name, const HopperSecondStagePlan&, const Traffic&, const Gpu&);

// Adds a reason to those that the plan gives already.
void add_reason(HopperPlan&, const std::string& why);

}  // namespace gcn::cuda
