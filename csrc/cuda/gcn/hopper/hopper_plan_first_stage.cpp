// The first stage of channels_last x with the Hopper kernel: rows, items, rings, clusters, splits, and how long it should take.
#include <algorithm>
#include <limits>

#include "../plan_parts.h"
#include "hopper_plan_rules.h"
#include "hopper_tiles.h"

namespace gcn::cuda {
namespace {

using Branch = FirstStagePlan::Branch;

// Rows of a product: all middle channels, or as many as leave the tensor cores least to do, times taps; in groups of whole
// octets, so that a piece of u has one writer.
void group_rows(Branch& b) {
  const int most = std::min(b.mid, kGroupMidMax);
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int mids = b.mid <= most ? b.mid : kOctet; mids <= most; mids = mids == b.mid ? most + 1 : mids + kOctet) {
    const int taps = std::min({b.taps.taps, kRowBlock / mids, kGroupTapsMost}), steps = int(ceil_div(b.taps.taps, taps));
    const int64_t products = ceil_div(b.mid, mids) * steps;
    if (products < least) least = products, b.group_mid = mids, b.group_taps = taps, b.tap_groups = steps;
  }
  b.groups = int(ceil_div(b.mid, b.group_mid)) * b.tap_groups;
}

int mid_groups(const Branch& b) { return b.groups / b.tap_groups; }
int64_t items(const Sizes& s, const HopperFirstStagePlan& h, int axis) { return s.n * h.bundles[axis] * h.segments[axis]; }

// Units of the axis that has more of them, which are what the clusters are given, `slots` times each.
int64_t units(const Sizes& s, const FirstStagePlan& f, const HopperFirstStagePlan& h, int slots) {
  const int64_t most = std::max(items(s, h, 0), items(s, h, 1));
  return ceil_div(ceil_div(most, 2), h.sharing) * (mid_groups(f.branch[0]) + mid_groups(f.branch[1])) * slots;
}

// One product of an item: its first position, how many, and the row of the window from which they are taken; as
// HopperFirstStageBlock::multiply() chooses them.
struct Product {
  int positions, row;
};

template <class Visit>
void for_each_product(const Branch& b, const HopperFirstStagePlan& h, int axis, int segment, const Visit& visit) {
  const int first = segment * h.outputs[axis], outputs = std::min(h.outputs[axis], b.length - first);
  for (int step = 0; step < b.tap_groups; ++step) {
    const int base = std::min(step * b.group_taps, b.taps.taps - b.group_taps);
    const uint32_t products =
        first_stage_products(positions_inside(first, outputs + b.group_taps - 1, base, b.length, b.taps.radius));
    if (products & kLow) visit(Product{kLowPositions, base});
    if (products & kEarly) visit(Product{kEarlyPositions, base + kEarlyFrom});
    if (products & kHigh) visit(Product{kHighPositions, base + kLowPositions});
    if (products & kHighCut) visit(Product{kHighCutPositions, base + kLowPositions});
  }
}

// What one k-block of an item asks for, on average over the items of a bundle.
struct ItemCost {
  double positions = 0;  // of eight lines, multiplied by 64 rows
  double read = 0;       // bytes of shared memory that wgmma reads
  double window = 0;     // bytes that are copied from x, without the zeros around the map
};

ItemCost item_cost(const Branch& b, const HopperFirstStagePlan& h, int axis) {
  ItemCost cost;
  const double share = 1.0 / h.segments[axis];
  for (int segment = 0; segment < h.segments[axis]; ++segment) {
    for_each_product(b, h, axis, segment, [&](const Product& product) {
      cost.positions += share * product.positions;
      cost.read += share * (kRowBlock + product.positions * kBundle) * kBlockBytes;
    });
    const int from = segment * h.outputs[axis] - b.taps.radius + h.window_front[axis], to = from + h.window_positions[axis];
    cost.window += share * (std::min(to, b.length) - std::max(from, 0)) * kPositionBytes;
  }
  return cost;
}

// Clocks of one item's end: all rows are written to shared memory, and those of each complete position read. Twice that for the
// latencies of four warps.
double epilogue_clocks(const Branch& b, const HopperFirstStagePlan& h, int axis) {
  const double positions = h.outputs[axis] + b.group_taps - 1, rows = kRowBlock + double(b.group_mid) * b.group_taps;
  return 2 * rows * positions * kBundle * 4 / 128;
}

// Of the busiest multiprocessor. While one warpgroup is at the end of its item, the other multiplies: a unit takes as long as
// both products, or one product and one end, or what shared memory or L2 needs for it.
double first_stage_clocks(const Sizes& s, Math math, const FirstStagePlan& f, const HopperFirstStagePlan& h, const Gpu& gpu,
                          int splits) {
  // As an H100 took them: until the first products, and around each unit's.
  constexpr double kStartClocks = 10000, kUnitClocks = 5000;
  const double rate = wgmma_fma_per_clock(gpu) / (math == Math::kTf32 ? 2 : 1);
  const double k_blocks = double(ceil_div(f.k_blocks, splits)), depth = kBlockBytes / double(element_bytes(math));
  double clocks = 0, last = 0;
  for (int axis = 0; axis < 2; ++axis) {
    const Branch& b = f.branch[axis];
    const ItemCost item = item_cost(b, h, axis);
    const double tensor = 2 * item.positions * kBundle * kRowBlock * depth * k_blocks / rate;
    const double weights = double(b.tap_groups) * kRowBlockBytes, epilogue = epilogue_clocks(b, h, axis);
    const double written = 2.0 * h.window_positions[axis] * kPositionBytes + weights;
    const double rounding = math == Math::kTf32 ? 2.0 * h.window_positions[axis] * kPositionBytes * k_blocks / 128 : 0;
    const double shared = (2 * item.read + written) * k_blocks / 128 + epilogue + 2 * rounding;
    const double l2 = (2 * item.window + weights / h.sharing) * k_blocks / (gpu.l2 / gpu.clock / gpu.multiprocessors);
    const double unit = std::max({tensor, tensor / 2 + epilogue + rounding, shared, l2}) + kUnitClocks;
    clocks += unit * mid_groups(b) * double(ceil_div(ceil_div(items(s, h, axis), 2), h.sharing));
    last = std::max(last, epilogue);
  }
  // On average over the units that clusters are given, some of which may be empty.
  const int64_t given = units(s, f, h, 1), all = given * splits;
  const double mean = clocks / double(given);
  const double rounds = double(ceil_div(all, std::min(clusters_side_by_side(h.sharing, gpu), all)));
  return kStartClocks + rounds * mean + last;
}

// Of the partial sums, which have places for all lines of a bundle.
int64_t tiles(const Sizes& s, const FirstStagePlan& f, const HopperFirstStagePlan& h) {
  int64_t most = 0;
  for (int axis = 0; axis < 2; ++axis) most = std::max(most, s.n * h.bundles[axis] * kBundle * f.branch[axis].length);
  return ceil_div(most, kTilePixels);
}

double partial_floats(const FirstStagePlan& f, int slots) {
  return slots == 1 ? 0 : double(slots) * f.tiles * kTilePixels * (f.branch[0].mid + f.branch[1].mid);
}

// Items of this many positions, and rings that fit shared memory with them.
bool size_items(const FirstStagePlan& f, const Sizes& s, int positions, const Gpu& gpu, HopperFirstStagePlan& h) {
  h.positions = positions;
  h.window_bytes = 0;
  for (int axis = 0; axis < 2; ++axis) {
    const Branch& b = f.branch[axis];
    const int most = positions - b.group_taps + 1;
    if (most < 1) return false;
    h.bundles[axis] = int(ceil_div(axis == 0 ? s.w : s.h, kBundle));
    h.segments[axis] = int(ceil_div(b.length, most));
    h.outputs[axis] = int(ceil_div(b.length, h.segments[axis]));
    h.segments[axis] = int(ceil_div(b.length, h.outputs[axis]));
    int front = positions + b.taps.taps, end = 0;
    for (int segment = 0; segment < h.segments[axis]; ++segment) {
      for_each_product(b, h, axis, segment, [&](const Product& product) {
        front = std::min(front, product.row), end = std::max(end, product.row + product.positions);
      });
    }
    h.window_front[axis] = front, h.window_positions[axis] = end - front;
    if (h.window_positions[axis] > kBoxMost) return false;
    h.window_bytes = std::max(h.window_bytes, int(round_up(h.window_positions[axis] * kPositionBytes, kSwizzleAlignment)));
  }
  // The groups of taps of a k-block are in as few stages as may be, and in equal parts.
  for (int most = kStageStepsMost; most >= 1; --most) {
    int fewest_stages = std::numeric_limits<int>::max();
    h.stage_steps = 0;
    for (const Branch& b : f.branch) {
      const int stages = int(ceil_div(b.tap_groups, most));
      h.stage_steps = std::max(h.stage_steps, int(ceil_div(b.tap_groups, stages)));
      fewest_stages = std::min(fewest_stages, stages);
    }
    for (h.stages = kRowStagesMost; h.stages >= kRowStagesLeast; --h.stages) {
      for (h.windows = kWindowsMost; h.windows >= kWindowsLeast; --h.windows) {
        h.shared_bytes = hopper_first_stage_shared_bytes(h.windows, h.window_bytes, h.stages, h.stage_steps);
        // As the runs had it that have shown this kernel faster; all stages but one may be better.
        h.ahead = gpu.overrides.first_stage_ahead ? std::min(gpu.overrides.first_stage_ahead, h.stages)
                                                  : std::min(h.stages / 2, h.windows * fewest_stages);
        if (h.shared_bytes <= gpu.shared_per_block) return true;
      }
    }
  }
  return false;
}

}  // namespace

std::string plan_hopper_first_stage(const Sizes& s, Math math, const Gpu& gpu, FirstStagePlan& f, HopperFirstStagePlan& h) {
  if (!gpu.hopper) return kNotHere;
  if (!hopper_first_stage_compiled(math)) return "the first stage takes bfloat16, float16 and tf32";
  FirstStagePlan lines = f;
  lines.column_blocks = kRowBlock / 8;
  for (Branch& b : lines.branch) {
    b.interleave = kBundle;
    b.overhang = 0;
    group_rows(b);
  }

  constexpr int kSplitsMost = 32;
  double best = std::numeric_limits<double>::infinity();
  HopperFirstStagePlan trial;
  for (int positions : {kLowPositions + kHighPositions, kLowPositions}) {
    if (!size_items(lines, s, positions, gpu, trial)) continue;
    if (tiles(s, lines, trial) > std::numeric_limits<int32_t>::max() / kTilePixels)
      return "the bundles of eight lines have too many pixels";
    lines.tiles = int(tiles(s, lines, trial));
    for (trial.sharing = 1; trial.sharing <= 2; ++trial.sharing) {
      if (clusters_side_by_side(trial.sharing, gpu) == 0 || !allowed(gpu.overrides.first_stage_sharing, trial.sharing)) continue;
      for (int splits = 1; splits <= std::min(kSplitsMost, lines.k_blocks); ++splits) {
        if (!allowed(gpu.overrides.first_stage_splits, splits)) continue;
        const double floats = partial_floats(lines, splits);
        const double completing = 8 * floats / gpu.l2 + (floats > 0 ? gpu.dependent_launch : 0);
        const double seconds = first_stage_clocks(s, math, lines, trial, gpu, splits) / gpu.clock + completing;
        if (seconds < best) best = seconds, lines.splits = splits, h = trial;
      }
    }
  }
  if (best == std::numeric_limits<double>::infinity())
    return "the first stage's windows do not fit shared memory, or overrides leave nothing";
  f = lines;
  for (Branch& b : f.branch) {
    b.slots = f.splits;
    b.complete = b.slots == 1;
    b.packed_bytes = size_t(b.groups) * f.k_blocks * kRowBlockBytes;
    b.partial_bytes = b.complete ? 0 : size_t(b.slots) * f.tiles * b.mid * kTilePixels * 4;
  }
  const int64_t clusters = std::min(clusters_side_by_side(h.sharing, gpu), units(s, f, h, f.splits));
  h.blocks = int(clusters) * h.sharing;
  h.used = true;
  return "";
}

void note_hopper_first_stage(Plan& plan, const FirstStagePlan& f, const HopperFirstStagePlan& h, const Traffic& traffic,
                             const Gpu& gpu) {
  double positions = 0;
  for (int axis = 0; axis < 2; ++axis) {
    positions += item_cost(f.branch[axis], h, axis).positions * double(items(plan.sizes, h, axis)) * mid_groups(f.branch[axis]);
  }
  const double depth = double(f.k_blocks) * kBlockBytes / element_bytes(plan.math);
  note(plan, {"hopper_first_stage", h.blocks, kHopperThreads, h.shared_bytes, 1, 2 * positions * kBundle * kRowBlock * depth},
       first_stage_clocks(plan.sizes, plan.math, f, h, gpu, f.splits), traffic, gpu);
}

}  // namespace gcn::cuda
