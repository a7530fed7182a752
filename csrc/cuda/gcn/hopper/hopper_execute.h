// From a plan to the parameters of the Hopper kernels.
#pragma once

#include "../plan.h"
#include "hopper_kernels.h"

namespace gcn::cuda {

HopperFirstStage hopper_first_stage_params(const ForwardPlan&, const FirstStageParams&);
HopperInputGrad hopper_input_grad_params(const BackwardPlan&, const void* const (&du)[2], void* workspace, void* dx);
// How the weights of the gradient of x are packed for it, one branch at a time: as portable ones, but for these sizes.
PackLineWeights hopper_input_grad_weights(const BackwardPlan&, int axis, PackLineWeights of_both, void* workspace);
// The same of the second stage, one branch at a time, and its parameters but for where the outputs go.
PackLineWeights hopper_second_stage_weights(const HopperSecondStagePlan&, int branch, PackLineWeights::Term, int outputs,
                                            void* workspace);
HopperSecondStage hopper_second_stage_params(const Sizes&, const HopperSecondStagePlan&, const void* const (&maps)[2],
                                             const LineConvPlan* const (&outs)[2], void* workspace);
HopperWeightGrad hopper_weight_grad_params(const BackwardPlan&, const WeightGradParams&);

}  // namespace gcn::cuda
