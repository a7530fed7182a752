// The first weights' gradients with the Hopper kernel: splits, and how long they should take.
#include <algorithm>
#include <limits>

#include "../plan_parts.h"
#include "hopper_plan_rules.h"
#include "hopper_tiles.h"

namespace gcn::cuda {
namespace {

int strips(const WeightGradPlan& g) {
  int64_t count = 0;
  for (const auto& b : g.branch) {
    if (b.blocks) count += ceil_div(b.channels / kOctet, kStripOctets) * ceil_div(b.taps.taps, kStripTaps);
  }
  return int(count);
}

int64_t units(const WeightGradPlan& g, int splits) {
  return int64_t(strips(g)) * ceil_div(g.channels, 2 * kSideChannels) * splits;
}

double weight_grad_clocks(const Sizes& s, const WeightGradPlan& g, const Gpu& gpu, int splits) {
  constexpr double kStartClocks = 2500, kColumns = 8 * kStripTaps * kStripOctets, kPixels = kPatchSide * kPatchSide;
  constexpr double kStage = 2 * 8192 + kStripOctets * kWindowBytes;
  const double tensor = 2 * kSideChannels * kColumns * kPixels / wgmma_fma_per_clock(gpu);
  const double read = 2 * kPixels / 16 * kStripOctets * (kSideChannels + 8 * kStripTaps) * 32;
  const double patch = std::max({tensor, (read + kStage) / 128, kStage / (gpu.l2 / gpu.clock / gpu.multiprocessors)});
  const double write = 2 * kSideChannels * kColumns * 4 / (gpu.l2 / gpu.clock / gpu.multiprocessors);
  const double patches = double(ceil_div(s.n * g.patches_h * g.patches_w, splits));
  return kStartClocks + busiest(units(g, splits), gpu) * (patches * patch + write);
}

}  // namespace

std::string plan_hopper_weight_grad(const Sizes& s, Math math, const SourcePlan& source, const Gpu& gpu, WeightGradPlan& g,
                                    HopperWeightGradPlan& h) {
  if (!gpu.hopper) return kNotHere;
  if (math != Math::kHalf && math != Math::kBFloat16) return "the weight gradients take bfloat16 and float16";
  if (!source.channels_last) return "the weight gradients take channels_last";
  for (const auto& b : g.branch) {
    if (b.blocks && 2 * b.taps.taps <= kStripTaps) return "of 15 taps of the weight gradients, most would be empty";
  }
  h.stages = kHopperStagesMost;
  while (h.stages > kHopperStagesLeast && hopper_weight_grad_shared_bytes(h.stages) > gpu.shared_per_block) --h.stages;
  h.shared_bytes = hopper_weight_grad_shared_bytes(h.stages);
  if (h.shared_bytes > gpu.shared_per_block) return "the weight gradients' stages do not fit shared memory";
  g.patch_h = g.patch_w = kPatchSide;
  g.patches_h = int(ceil_div(s.h, kPatchSide)), g.patches_w = int(ceil_div(s.w, kPatchSide));
  constexpr int64_t kSplitsMax = 64;
  double quickest = std::numeric_limits<double>::infinity();
  for (int splits = 1; splits <= std::min(kSplitsMax, s.n * g.patches_h * g.patches_w); ++splits) {
    const double partial = double(splits) * g.channels * g.blocks_per_row * kOctet * 4;
    const double seconds = weight_grad_clocks(s, g, gpu, splits) / gpu.clock + 2 * partial / gpu.l2;
    if (seconds < quickest) quickest = seconds, g.splits = splits;
  }
  g.partial_bytes = size_t(g.splits) * size_t(g.channels) * g.blocks_per_row * kOctet * 4;
  h.blocks = int(std::min<int64_t>(gpu.multiprocessors, units(g, g.splits)));
  h.used = true;
  return "";
}

void note_hopper_weight_grad(Plan& plan, const WeightGradPlan& g, const HopperWeightGradPlan& h, const Traffic& traffic,
                             const Gpu& gpu) {
  const double patches = double(plan.sizes.n * g.patches_h * g.patches_w);
  const double flops =
      2.0 * double(units(g, 1)) * patches * kPatchSide * kPatchSide * 2 * kSideChannels * 8 * kStripTaps * kStripOctets;
  note(plan, {"hopper_weight_grad dw_l1 and dw_r1", h.blocks, kHopperThreads, h.shared_bytes, 1, flops},
       weight_grad_clocks(plan.sizes, g, gpu, g.splits), traffic, gpu);
}

}  // namespace gcn::cuda
