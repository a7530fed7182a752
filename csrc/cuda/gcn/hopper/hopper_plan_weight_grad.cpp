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

// The share of the taps' products that is left, on average over a branch's strips and steps of two positions; as
// HopperWeightGradBlock::multiply() chooses them.
double share_left(const Sizes& s, const WeightGradPlan& g) {
  int64_t left = 0, all = 0;
  for (int axis = 0; axis < 2; ++axis) {
    const auto& b = g.branch[axis];
    if (b.blocks == 0) continue;
    const int length = int(axis == 0 ? s.h : s.w), patches = axis == 0 ? g.patches_h : g.patches_w;
    for (int first_tap = 0; first_tap < b.taps.taps; first_tap += kStripTaps) {
      for (int position = 0; position < patches * kPatchSide; position += 2) {
        const int inside = length - position + b.taps.radius - first_tap;
        left += inside > 13 ? 15 : inside > 11 ? 13 : inside > 9 ? 11 : 9, all += kStripTaps;
      }
    }
  }
  return all ? double(left) / double(all) : 1;
}

// Clocks of the busiest multiprocessor. While one warpgroup writes its sums, the other multiplies: a unit takes as long as its
// patches, or as one warpgroup's products and sums.
double weight_grad_clocks(const Sizes& s, const WeightGradPlan& g, const Gpu& gpu, int splits) {
  // As an H100 took them: until the first products and after the last, and their rate beside the assumed one.
  constexpr double kStartClocks = 15000, kRate = 1.08;
  constexpr double kColumns = 8 * kStripTaps * kStripOctets, kPixels = kPatchSide * kPatchSide;
  constexpr double kStage = 2 * 8192 + kStripOctets * kWindowBytes;
  const double share = share_left(s, g), l2 = gpu.l2 / gpu.clock / gpu.multiprocessors;
  const double tensor = share * 2 * kSideChannels * kColumns * kPixels / (kRate * wgmma_fma_per_clock(gpu));
  const double read = 2 * kPixels / 16 * kStripOctets * (kSideChannels + share * 8 * kStripTaps) * 32;
  const double patch = std::max({tensor, (read + kStage) / 128, kStage / l2});
  const double write = kSideChannels * kColumns * 4 / l2;  // of one warpgroup
  const double patches = double(ceil_div(s.n * g.patches_h * g.patches_w, splits));
  return kStartClocks + busiest(units(g, splits), gpu) * std::max(patches * patch, patches * tensor / 2 + write) + write;
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
    if (!allowed(gpu.overrides.weight_grad_splits, splits)) continue;
    const double partial = double(splits) * g.channels * g.blocks_per_row * kOctet * 4;
    const double seconds = weight_grad_clocks(s, g, gpu, splits) / gpu.clock + 2 * partial / gpu.l2;
    if (seconds < quickest) quickest = seconds, g.splits = splits;
  }
  if (quickest == std::numeric_limits<double>::infinity()) return "overrides leave no splits of the weight gradients";
  g.partial_bytes = size_t(g.splits) * size_t(g.channels) * g.blocks_per_row * kOctet * 4;
  h.blocks = int(std::min<int64_t>(gpu.multiprocessors, units(g, g.splits)));
  h.used = true;
  return "";
}

void note_hopper_weight_grad(Plan& plan, const WeightGradPlan& g, const HopperWeightGradPlan& h, const Traffic& traffic,
                             const Gpu& gpu) {
  const double patches = double(plan.sizes.n * g.patches_h * g.patches_w);
  const double flops = 2.0 * share_left(plan.sizes, g) * double(units(g, 1)) * patches * kPatchSide * kPatchSide * 2 *
                       kSideChannels * 8 * kStripTaps * kStripOctets;
  note(plan, {"hopper_weight_grad dw_l1 and dw_r1", h.blocks, kHopperThreads, h.shared_bytes, 1, flops},
       weight_grad_clocks(plan.sizes, g, gpu, g.splits), traffic, gpu);
}

}  // namespace gcn::cuda
