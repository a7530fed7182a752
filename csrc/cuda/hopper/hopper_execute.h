// From a plan to the parameters of the Hopper kernels.
#pragma once

#include "../plan.h"
#include "hopper_kernels.h"

namespace gcn::cuda {

HopperFirstStage hopper_first_stage_params(const ForwardPlan&, const FirstStageParams&);
HopperWeightGrad hopper_weight_grad_params(const BackwardPlan&, const WeightGradParams&);

}  // namespace gcn::cuda
