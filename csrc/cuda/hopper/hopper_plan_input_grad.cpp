// The gradient of x with the Hopper kernel: tiles, and how long it should take.
#include <algorithm>
#include <limits>

#include "../plan_parts.h"
#include "hopper_plan_rules.h"
#include "hopper_tiles.h"

namespace gcn::cuda {
namespace {

int steps(const HopperInputGradPlan& h, int axis, int taps) {
  const int pairs = h.octets[axis] / 2, single = h.octets[axis] % 2;
  return pairs * taps + single * (taps + 1) / 2;
}

// Units that clusters are given.
int64_t units(const Sizes& s, const HopperInputGradPlan& h) {
  return ceil_div(s.n * h.patches_h * h.patches_w, h.cluster) * h.n_tiles;
}

// Clocks of the busiest multiprocessor. While one warpgroup writes its output, the other multiplies: a unit takes as long as both
// products, or one product and one output, or what shared memory or L2 needs for it.
double input_grad_clocks(const Sizes& s, const HopperInputGradPlan& h, const Gpu& gpu) {
  // As an H100 took them: until the first products, around each unit's, and for a unit's output.
  constexpr double kStartClocks = 8000, kUnitClocks = 1200, kWriteClocks = 1000, kSharedShare = 0.8;
  double all_steps = 0;
  for (int axis = 0; axis < 2; ++axis) {
    const int taps = axis == 0 ? h.window_h[0] - kGradPatchH + 1 : h.window_w[1] - kGradPatchW + 1;
    all_steps += steps(h, axis, taps);
  }
  const double weights = all_steps * h.outputs * 32, output = double(kGradPatchH) * kGradPatchW * h.outputs * 2;
  const double tensor = kGradPatchH * kGradPatchW * 16.0 * h.outputs * all_steps / wgmma_fma_per_clock(gpu);
  const double shared = (2 * (64.0 + h.outputs) * 32 * all_steps + h.windows_bytes + weights) / (128 * kSharedShare);
  const double l2 = (h.windows_bytes + weights / h.cluster + output) / (gpu.l2 / gpu.clock / gpu.multiprocessors);
  const double epilogue = output / 128 + kWriteClocks;  // of one warpgroup: half of the output, 64 bytes a clock
  const double unit = std::max({tensor, tensor / 2 + epilogue, shared, l2}) + kUnitClocks;
  return kStartClocks + double(ceil_div(units(s, h), clusters_side_by_side(h.cluster, gpu))) * unit + epilogue;
}

void size_input_grad(const Sizes& s, const LineConvPlan& l, int outputs, HopperInputGradPlan& h) {
  h.outputs = outputs;
  h.n_tiles = int(ceil_div(s.c, outputs));
  h.patches_h = int(ceil_div(s.h, kGradPatchH)), h.patches_w = int(ceil_div(s.w, kGradPatchW));
  h.windows_bytes = h.zeros_bytes = 0;
  for (int axis = 0; axis < 2; ++axis) {
    const auto& t = l.terms[size_t(axis)];
    h.octets[axis] = t.channels / kOctet;
    h.phases[axis] = int(ceil_div(h.octets[axis], 2));
    h.k_blocks[axis] = int(ceil_div((h.octets[axis] > 1 ? 2 : 1) * t.taps.taps, 4));
    h.window_h[axis] = kGradPatchH + (axis == 0 ? 2 * t.taps.radius : 0);
    h.window_w[axis] = kGradPatchW + (axis == 1 ? 2 * t.taps.radius : 0);
    h.windows_bytes += h.octets[axis] * h.window_h[axis] * h.window_w[axis] * kPieceBytes;
    h.zeros_bytes = std::max(h.zeros_bytes, (7 * h.window_w[axis] + 8) * kPieceBytes);
    h.packed_bytes[axis] = size_t(h.n_tiles) * h.phases[axis] * h.k_blocks[axis] * outputs * kBlockBytes;
  }
}

}  // namespace

std::string plan_hopper_input_grad(const Sizes& s, Math math, const Gpu& gpu, const LineConvPlan& l, HopperInputGradPlan& h) {
  if (!gpu.hopper) return kNotHere;
  if (math != Math::kHalf && math != Math::kBFloat16) return "the input gradient takes bfloat16 and float16";
  // kRows has whole pieces, but not in every pixel.
  if (l.order != LineOrder::kOutputs || !l.vector) {
    return "the input gradient is written as channels_last, in whole pieces of 16 bytes";
  }
  double quickest = std::numeric_limits<double>::infinity();
  for (int outputs : {256, 128}) {
    if (!allowed(gpu.overrides.input_grad_channels, outputs)) continue;
    HopperInputGradPlan trial;
    size_input_grad(s, l, outputs, trial);
    trial.stages = kHopperStagesMost;
    const auto bytes = [&] {
      return hopper_input_grad_shared_bytes(outputs, trial.windows_bytes, trial.zeros_bytes, trial.stages);
    };
    while (trial.stages > kHopperStagesLeast && bytes() > gpu.shared_per_block) --trial.stages;
    trial.shared_bytes = bytes();
    if (trial.shared_bytes > gpu.shared_per_block || trial.window_h[0] > kBoxMost || trial.window_w[1] > kBoxMost) continue;
    for (trial.cluster = 1; trial.cluster <= 2; ++trial.cluster) {
      if (clusters_side_by_side(trial.cluster, gpu) == 0 || !allowed(gpu.overrides.input_grad_cluster, trial.cluster)) continue;
      const double clocks = input_grad_clocks(s, trial, gpu);
      if (clocks < quickest) quickest = clocks, h = trial;
    }
  }
  if (quickest == std::numeric_limits<double>::infinity())
    return "the input gradient's windows do not fit shared memory twice, or overrides leave nothing";
  h.blocks = h.cluster * int(std::min(clusters_side_by_side(h.cluster, gpu), units(s, h)));
  h.used = true;
  return "";
}

void note_hopper_input_grad(Plan& plan, const HopperInputGradPlan& h, const Traffic& traffic, const Gpu& gpu) {
  const Sizes& s = plan.sizes;
  double all_steps = 0;
  for (int axis = 0; axis < 2; ++axis) {
    all_steps += steps(h, axis, axis == 0 ? h.window_h[0] - kGradPatchH + 1 : h.window_w[1] - kGradPatchW + 1);
  }
  const double pixels = double(s.n * h.patches_h * h.patches_w) * kGradPatchH * kGradPatchW;
  note(plan,
       {"hopper_input_grad dx", h.blocks, kHopperThreads, h.shared_bytes, 1, 2 * pixels * h.n_tiles * h.outputs * 16 * all_steps},
       input_grad_clocks(s, h, gpu), traffic, gpu);
}

}  // namespace gcn::cuda
