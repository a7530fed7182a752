// The first stage with the Hopper kernel for NCHW: sizes, splits, clusters, and how long it should take.
#include <algorithm>
#include <limits>
#include <numeric>

#include "../plan_parts.h"
#include "hopper_plan_rules.h"
#include "hopper_tiles.h"

namespace gcn::cuda {
namespace {

int pairs(const FirstStagePlan& f) { return (f.branch[0].groups + 1) / 2 + (f.branch[1].groups + 1) / 2; }

int64_t units(const FirstStagePlan& f, int cluster, int splits) { return ceil_div(f.tiles, cluster) * pairs(f) * splits; }

// The epilogue of one warpgroup: its 168 columns of T through shared memory once, and twice that for the latencies of four warps.
double epilogue_clocks(const FirstStagePlan& f) { return 2 * 2.0 * 8 * f.column_blocks * kTilePixels * 4 / 128; }

// Clocks of the busiest multiprocessor. While one warpgroup adds up its taps, the other multiplies: a unit takes as long as both
// products, or one product and one epilogue, or what shared memory or L2 needs for it.
double first_stage_clocks(const FirstStagePlan& f, const Gpu& gpu, int cluster, int splits) {
  constexpr double kStartClocks = 2500;
  const double columns = 2 * 8.0 * f.column_blocks, steps = double(ceil_div(f.k_blocks, splits)), depth = 32 * steps;
  const double tensor = kTilePixels * columns * depth / wgmma_fma_per_clock(gpu);
  // Both warpgroups read all of x and their weights once for each half of the pixels.
  const double read = 2 * (kTilePixels + columns) * kBlockBytes * steps;
  const double written = (kTilePixels + columns) * kBlockBytes * steps;
  const double taps = 2 * columns * kTilePixels * 4;
  const double l2 = (kTilePixels + columns / cluster) * kBlockBytes * steps / (gpu.l2 / gpu.clock / gpu.multiprocessors);
  const double unit = std::max({tensor, tensor / 2 + epilogue_clocks(f), (read + written + taps) / 128, l2});
  const int64_t clusters = std::min<int64_t>(gpu.multiprocessors / cluster, units(f, cluster, splits));
  return kStartClocks + double(ceil_div(units(f, cluster, splits), clusters)) * unit + epilogue_clocks(f);
}

double partial_floats(const FirstStagePlan& f, int splits) {
  double floats = 0;
  for (const auto& b : f.branch) {
    if (splits * b.tap_groups > 1 || b.overhang)
      floats += double(splits) * b.tap_groups * f.tiles * b.mid * (kTilePixels + 2 * b.overhang);
  }
  return floats;
}

// How x is copied: by runs of pixels that are neighbours in a row of the map, of which those that a tile has below each other,
// and that no end of a column parts, are one box.
void choose_boxes(const FirstStagePlan& f, HopperFirstStageNchwPlan& h) {
  constexpr int kRunMost = 64;  // rows of 128 bytes, and the pixels of one product
  const int height = f.branch[0].length, width = f.branch[1].length;
  h.run[0] = f.branch[0].interleave;
  h.run[1] = std::gcd(width, kRunMost);
  for (int axis = 0; axis < 2; ++axis) {
    const bool below_each_other = axis == 0 || h.run[axis] == width;
    h.box_runs[axis] = below_each_other ? std::gcd(height, kTilePixels / h.run[axis]) : 1;
  }
}

}  // namespace

std::string plan_hopper_first_stage_nchw(Math math, const Gpu& gpu, FirstStagePlan& f, HopperFirstStageNchwPlan& h) {
  if (!gpu.hopper) return kNotHere;
  if (!hopper_first_stage_nchw_compiled(math, f.column_blocks)) return "the first stage takes bfloat16 and float16 from NCHW";
  choose_boxes(f, h);
  for (const auto& b : f.branch) h.sums = std::max(h.sums, b.group_mid * (kTilePixels + 2 * b.overhang));
  h.stages = kHopperStagesMost;
  while (h.stages > kHopperStagesLeast &&
         hopper_first_stage_nchw_shared_bytes(f.column_blocks, h.sums, h.stages) > gpu.shared_per_block)
    --h.stages;
  h.shared_bytes = hopper_first_stage_nchw_shared_bytes(f.column_blocks, h.sums, h.stages);
  if (h.shared_bytes > gpu.shared_per_block) return "the first stage's sums over taps leave too little shared memory";

  constexpr int kSplitsMax = 32;
  double best = std::numeric_limits<double>::infinity();
  for (int cluster = 1; cluster <= 2; ++cluster) {
    for (int splits = 1; splits <= std::min(kSplitsMax, f.k_blocks); ++splits) {
      const double completing =
          8 * partial_floats(f, splits) / gpu.l2 + (partial_floats(f, splits) > 0 ? gpu.dependent_launch : 0);
      const double seconds = first_stage_clocks(f, gpu, cluster, splits) / gpu.clock + completing;
      if (gpu.multiprocessors >= cluster && seconds < best) best = seconds, f.splits = splits, h.cluster = cluster;
    }
  }
  for (auto& b : f.branch) {
    b.slots = f.splits * b.tap_groups;
    b.complete = b.slots == 1 && b.overhang == 0;
    b.partial_bytes = b.complete ? 0 : size_t(b.slots) * f.tiles * b.mid * (kTilePixels + 2 * b.overhang) * 4;
  }
  h.blocks = h.cluster * int(std::min<int64_t>(gpu.multiprocessors / h.cluster, units(f, h.cluster, f.splits)));
  h.used = true;
  return "";
}

void note_hopper_first_stage_nchw(Plan& plan, const FirstStagePlan& f, const HopperFirstStageNchwPlan& h, const Traffic& traffic,
                                  const Gpu& gpu) {
  const double flops =
      2.0 * double(units(f, h.cluster, 1)) * h.cluster * kTilePixels * 16 * f.column_blocks * f.k_blocks * (kBlockBytes / 2);
  note(plan, {"hopper_first_stage_nchw", h.blocks, kHopperThreads, h.shared_bytes, 1, flops},
       first_stage_clocks(f, gpu, h.cluster, f.splits), traffic, gpu);
}

}  // namespace gcn::cuda
