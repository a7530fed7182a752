#include "hopper_execute.h"

#include <algorithm>

#include "hopper_tiles.h"

namespace gcn::cuda {

// The plan has seen to it that only dimensions of one element have stride 0; of those any stride will do but none.
uint64_t stride_bytes(int64_t pieces) { return uint64_t(std::max<int64_t>(pieces, 1)) * kPieceBytes; }

HopperFirstStage hopper_first_stage_params(const ForwardPlan& plan, const FirstStageParams& stage) {
  const HopperFirstStagePlan& h = plan.hopper.first;
  const Sizes& s = plan.sizes;
  const int bytes = element_bytes(plan.math);
  HopperFirstStage p{};
  p.stage = stage;
  p.window_bytes = h.window_bytes, p.windows = h.windows, p.stages = h.stages, p.stage_steps = h.stage_steps;
  p.ahead = h.ahead, p.sharing = h.sharing;
  for (int axis = 0; axis < 2; ++axis) {
    p.bundles[axis] = h.bundles[axis], p.segments[axis] = h.segments[axis], p.outputs[axis] = h.outputs[axis];
    p.window_front[axis] = h.window_front[axis], p.window_positions[axis] = h.window_positions[axis];
    const Strides& pieces = plan.source.pieces;
    const int64_t line = axis == 0 ? pieces.w : pieces.h, position = axis == 0 ? pieces.h : pieces.w;
    const int64_t lines = axis == 0 ? s.w : s.h, positions = axis == 0 ? s.h : s.w;
    p.x[axis] = {stage.x,
                 bytes,
                 4,
                 {uint64_t(s.c), uint64_t(lines), uint64_t(positions), uint64_t(s.n)},
                 {stride_bytes(line), stride_bytes(position), stride_bytes(pieces.n)},
                 {uint32_t(kBlockBytes / bytes), kBundle, uint32_t(h.window_positions[axis]), 1},
                 kBlockBytes};
  }
  return p;
}

HopperWeightGrad hopper_weight_grad_params(const BackwardPlan& plan, const WeightGradParams& grad) {
  const Sizes& s = plan.sizes;
  const Strides& pieces = plan.source.pieces;
  const int bytes = element_bytes(plan.math);
  HopperWeightGrad p{};
  p.grad = grad;
  p.stages = plan.hopper.weight_grad.stages;
  for (int axis = 0; axis < 2; ++axis) {
    const uint64_t lines = axis == 0 ? s.w : s.h, positions = axis == 0 ? s.h : s.w;
    const WeightGradBranch& b = grad.branch[axis];
    const uint64_t pixel = uint64_t(b.channels) * bytes, row = pixel * s.w;
    p.x[axis] = {
        grad.a,
        bytes,
        4,
        {uint64_t(s.c), lines, positions, uint64_t(s.n)},
        {stride_bytes(axis == 0 ? pieces.w : pieces.h), stride_bytes(axis == 0 ? pieces.h : pieces.w), stride_bytes(pieces.n)},
        {kSideChannels, kPatchSide, kPatchSide, 1},
        128};
    p.du[axis] = {b.map,
                  bytes,
                  4,
                  {uint64_t(b.channels), lines, positions, uint64_t(s.n)},
                  {axis == 0 ? pixel : row, axis == 0 ? row : pixel, row * s.h},
                  {kOctet, kPatchSide, kWindowLong, 1},
                  0};
  }
  return p;
}

PackLineWeights hopper_input_grad_weights(const BackwardPlan& plan, int axis, PackLineWeights of_both, void* workspace) {
  const HopperInputGradPlan& h = plan.hopper.input_grad;
  PackLineWeights p = of_both;
  p.term[0] = of_both.term[axis], p.term[1] = {};
  p.terms = 1;
  p.to = static_cast<unsigned char*>(workspace) + h.weights_at[axis];
  const InputGradShape shape = input_grad_shape(h.tile);
  p.tile_outputs = shape.channels, p.n_tiles = h.n_tiles;
  p.chunk = 2 * kOctet, p.phases = h.phases[axis], p.k_blocks = h.k_blocks[axis];
  p.of_lanes = !shape.nchw;
  return p;
}

PackLineWeights hopper_second_stage_weights(const HopperSecondStagePlan& h, int branch, PackLineWeights::Term term, int outputs,
                                            void* workspace) {
  PackLineWeights p{};
  p.term[0] = term;
  p.to = static_cast<unsigned char*>(workspace) + h.weights_at[branch];
  p.terms = 1, p.outputs = outputs, p.tile_outputs = kSecondOutputs, p.n_tiles = h.n_tiles;
  p.chunk = 2 * kOctet, p.phases = h.phases[branch], p.k_blocks = h.k_blocks[branch];
  return p;
}

HopperSecondStage hopper_second_stage_params(const Sizes& s, const HopperSecondStagePlan& h, const void* const (&maps)[2],
                                             const LineConvPlan* const (&outs)[2], void* workspace) {
  HopperSecondStage p{};
  for (int i = 0; i < 2; ++i) {
    p.weights[i] = static_cast<const unsigned char*>(workspace) + h.weights_at[i];
    p.map[i] = maps[i];
    p.octets[i] = h.octets[i], p.radius[i] = h.radius[i], p.k_blocks[i] = h.k_blocks[i];
    p.window_h[i] = h.window_h[i], p.window_w[i] = h.window_w[i], p.plane_bytes[i] = h.plane_bytes[i];
    const LineConvPlan& out = *outs[i];
    p.out[i].stride_n = out.out.n, p.out[i].stride_c = out.out.c, p.out[i].stride_h = out.out.h, p.out[i].stride_w = out.out.w;
    p.out[i].outputs = out.outputs, p.out[i].outputs_written = out.outputs_written;
    p.out[i].order = h.order[i], p.out[i].vector = h.vector[i];
  }
  p.weights_bytes = h.weights_bytes, p.windows_bytes = h.windows_bytes, p.zeros_bytes = h.zeros_bytes;
  p.apart = h.apart, p.turned = h.turned;
  p.n = int(s.n), p.h = int(s.h), p.w = int(s.w);
  p.n_tiles = h.n_tiles, p.patches_h = h.patches_h, p.patches_w = h.patches_w;
  return p;
}

HopperInputGrad hopper_input_grad_params(const BackwardPlan& plan, const void* const (&du)[2], void* workspace, void* dx) {
  const HopperInputGradPlan& h = plan.hopper.input_grad;
  const Sizes& s = plan.sizes;
  HopperInputGrad p{};
  for (int i = 0; i < 2; ++i) {
    const Taps& taps = plan.dx.terms[size_t(i)].taps;
    p.weights[i] = static_cast<const unsigned char*>(workspace) + h.weights_at[i];
    p.octets[i] = h.octets[i], p.radius[i] = taps.radius, p.k_blocks[i] = h.k_blocks[i];
    p.window_h[i] = h.window_h[i], p.window_w[i] = h.window_w[i];
    const uint64_t pixel = uint64_t(h.octets[i]) * kPieceBytes;
    p.du[i] = {du[i],
               element_bytes(plan.math),
               4,
               {uint64_t(h.octets[i] * kOctet), uint64_t(s.w), uint64_t(s.h), uint64_t(s.n)},
               {pixel, pixel * s.w, pixel * s.w * s.h},
               {kOctet, uint32_t(h.window_w[i]), uint32_t(h.window_h[i]), 1},
               0};
  }
  p.windows_bytes = h.windows_bytes, p.zeros_bytes = h.zeros_bytes, p.stages = h.stages, p.cluster = h.cluster,
  p.together = h.together;
  p.out = dx;
  p.stride_n = plan.dx.out.n, p.stride_c = plan.dx.out.c, p.stride_h = plan.dx.out.h, p.stride_w = plan.dx.out.w;
  p.n = int(s.n), p.h = int(s.h), p.w = int(s.w), p.channels = int(s.c);
  p.n_tiles = h.n_tiles, p.patches_h = h.patches_h, p.patches_w = h.patches_w;
  return p;
}

}  // namespace gcn::cuda
