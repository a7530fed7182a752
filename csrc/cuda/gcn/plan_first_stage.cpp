// First stage: columns and groups, order of the lines, splits of the channels.
#include <algorithm>
#include <limits>

#include "plan_parts.h"

namespace gcn::cuda {
namespace {

// How a branch's columns are dealt out to blocks of at most `columns`.
void group_columns(FirstStagePlan::Branch& b, int columns) {
  if (b.taps.taps <= columns) {
    const int most = std::min(kGroupMidMax, columns / b.taps.taps);
    b.group_mid = int(ceil_div(b.mid, ceil_div(b.mid, most)));  // of nearly equal size
    b.group_taps = b.taps.taps;
    b.tap_groups = 1;
    b.groups = int(ceil_div(b.mid, b.group_mid));
  } else {
    b.group_mid = 1;
    b.tap_groups = int(ceil_div(b.taps.taps, columns));
    b.group_taps = int(ceil_div(b.taps.taps, b.tap_groups));
    b.tap_groups = int(ceil_div(b.taps.taps, b.group_taps));
    b.groups = b.mid * b.tap_groups;
  }
}

// Blocks of 8 columns that are multiplied, over all groups.
int64_t used_column_blocks(const FirstStagePlan::Branch& b) {
  int64_t used = 0;
  for (int g = 0; g < b.groups; ++g) {
    const int first_mid = g / b.tap_groups * b.group_mid, first_tap = g % b.tap_groups * b.group_taps;
    used += ceil_div(std::min(b.group_mid, b.mid - first_mid) * std::min(b.group_taps, b.taps.taps - first_tap), 8);
  }
  return used;
}

// Blocks of 8 columns that the 16-pixel fragments of a tile multiply, on average and over all groups: those with a tap that leads
// to another place in its line, in pairs, as find_wanted() of first_stage.cuh has them.
double wanted_column_blocks(const FirstStagePlan::Branch& b, int column_blocks) {
  constexpr int kFragments = kTilePixels / 16;
  int64_t wanted = 0;
  for (int fragment = 0; fragment < kFragments; ++fragment) {
    int low = b.taps.taps, high = 0;
    for (int q = fragment * 16; q < fragment * 16 + 16;
         ++q) {  // in the first tile; where lines do not fit into tiles, others differ
      const int position = q / b.interleave % b.length;
      low = std::min(low, std::max(0, position + b.taps.radius - b.length + 1));
      high = std::max(high, std::min(b.taps.taps, position + b.taps.radius + 1));
    }
    for (int g = 0; g < b.groups; ++g) {
      const int mids = std::min(b.group_mid, b.mid - g / b.tap_groups * b.group_mid), first_tap = g % b.tap_groups * b.group_taps;
      const int taps = std::min(b.group_taps, b.taps.taps - first_tap);
      const int from = std::max(low - first_tap, 0) * mids / 16, to = int(ceil_div(std::min(high - first_tap, taps) * mids, 16));
      wanted += std::max(0, std::min(2 * to, column_blocks) - 2 * from);
    }
  }
  return double(wanted) / kFragments;
}

// A block's share of both branches' work on one k-block.
BlockCost k_block_cost(const FirstStagePlan& f, Math math, const Gpu& gpu) {
  const double items = f.branch[0].groups + f.branch[1].groups, depth = double(kBlockBytes) / element_bytes(math);
  BlockCost c{};
  for (const auto& b : f.branch) {
    const double columns = 8.0 * double(used_column_blocks(b)), rows = b.groups * double(kTilePixels);
    c.tensor += kTilePixels * 8 * wanted_column_blocks(b, f.column_blocks) * depth / fma_per_clock(math, gpu) / items;
    c.shared += (rows + 4 * columns) * kBlockBytes / 128 / items;  // each of four warps reads all columns
    c.l2 += (rows + columns) * kBlockBytes / items;
    c.epilogue += 2 * columns * kTilePixels * 4 / 128 / items;  // T is written and read once
  }
  return c;
}

int64_t first_stage_blocks(const FirstStagePlan& f, int splits) {
  return int64_t(f.tiles) * (f.branch[0].groups + f.branch[1].groups) * splits;
}

double first_stage_clocks(const FirstStagePlan& f, const BlockCost& k_block, int splits, const Gpu& gpu) {
  const double count = double(ceil_div(f.k_blocks, splits));
  const BlockCost block{k_block.tensor * count, k_block.shared * count, k_block.l2 * count, k_block.epilogue};
  return clocks_of({{first_stage_blocks(f, splits), block}}, blocks_per_multiprocessor(f.shared_bytes, 2, gpu), gpu);
}

double partial_floats(const FirstStagePlan& f, int splits) {
  double floats = 0;
  for (const auto& b : f.branch) {
    if (splits * b.tap_groups > 1 || b.overhang) {
      floats += double(splits) * b.tap_groups * f.tiles * b.mid * (kTilePixels + 2 * b.overhang);
    }
  }
  return floats;
}

// Neighbouring lines that alternate in a tile. NCHW has whole pieces of neighbouring columns. From channels_last any number will
// do: as many as make a tile of whole lines, so that the 16 pixels of a fragment have few positions in their lines, and at the
// ends of lines few taps that lead anywhere.
int interleaved_lines(const Sizes& s, int axis, Math math, const SourcePlan& source) {
  if (!source.channels_last) return axis == 0 ? piece_elements(math) : 1;
  const int64_t length = axis == 0 ? s.h : s.w, lines = axis == 0 ? s.w : s.h;
  for (int count = 16; count > 1; count /= 2) {
    if (lines % count == 0 && kTilePixels % (length * count) == 0) return count;
  }
  return 1;
}

}  // namespace

FirstStagePlan plan_first_stage(const Sizes& s, Math math, const SourcePlan& source, const Gpu& gpu) {
  FirstStagePlan f{};
  const int64_t pixels = s.n * s.h * s.w;
  if (pixels > std::numeric_limits<int32_t>::max() - 2 * kTilePixels) throw TooLarge("x has more than 2^31 pixels");
  for (int axis = 0; axis < 2; ++axis) {
    auto& b = f.branch[axis];
    b.length = int(axis == 0 ? s.h : s.w);
    b.taps = clip_taps(axis == 0 ? s.k1 : s.k3, b.length, axis);
    b.mid = int(axis == 0 ? s.m_l : s.m_r);
    b.interleave = interleaved_lines(s, axis, math, source);
    b.overhang = kTilePixels % (b.length * b.interleave) == 0 ? 0 : b.taps.radius * b.interleave;
  }

  // The number of columns that leaves least empty; each further block reads x once more.
  double least = std::numeric_limits<double>::infinity();
  for (int column_blocks : kFirstStageColumnBlocks) {
    if (!first_stage_compiled(math, column_blocks)) continue;
    double cost = 0;
    FirstStagePlan trial = f;
    for (auto& b : trial.branch) {
      group_columns(b, 8 * column_blocks);
      cost += double(used_column_blocks(b)) + 1.5 * b.groups;
    }
    if (cost < least) least = cost, trial.column_blocks = column_blocks, f = trial;
  }

  f.tiles = int(ceil_div(pixels, kTilePixels));
  f.k_blocks = int(ceil_div(s.c, kBlockBytes / element_bytes(math)));
  if (int64_t(f.tiles) * (f.branch[0].groups + f.branch[1].groups) > std::numeric_limits<int32_t>::max()) {
    throw TooLarge("the first stage would have more than 2^31 blocks");
  }
  int sums = 0;
  for (const auto& b : f.branch) sums = std::max(sums, b.group_mid * first_stage_sums_row(kTilePixels + 2 * b.overhang));
  f.shared_bytes = first_stage_shared_bytes(f.column_blocks, sums);
  require_shared("the first stage", f.shared_bytes, gpu);

  // Splits of the channels: small maps would leave multiprocessors idle, but sums have to be completed.
  constexpr int kSplitsMax = 32;
  const BlockCost k_block = k_block_cost(f, math, gpu);
  double best = std::numeric_limits<double>::infinity();
  for (int splits = 1; splits <= std::min(kSplitsMax, f.k_blocks); ++splits) {
    const double completing = 8 * partial_floats(f, splits) / gpu.l2 + (partial_floats(f, splits) > 0 ? gpu.dependent_launch : 0);
    const double seconds = first_stage_clocks(f, k_block, splits, gpu) / gpu.clock + completing;
    if (seconds < best) best = seconds, f.splits = splits;
  }
  for (auto& b : f.branch) {
    b.slots = f.splits * b.tap_groups;
    b.complete = b.slots == 1 && b.overhang == 0;
    b.packed_bytes = size_t(b.groups) * f.k_blocks * f.column_blocks * 8 * kBlockBytes;
    b.partial_bytes = b.complete ? 0 : size_t(b.slots) * f.tiles * b.mid * (kTilePixels + 2 * b.overhang) * 4;
  }
  return f;
}

double first_stage_seconds(const FirstStagePlan& f, int splits, Math math, const Gpu& gpu) {
  return first_stage_clocks(f, k_block_cost(f, math, gpu), splits, gpu) / gpu.clock;
}

double first_stage_flops(const FirstStagePlan& f, Math math) {
  const double wanted = wanted_column_blocks(f.branch[0], f.column_blocks) + wanted_column_blocks(f.branch[1], f.column_blocks);
  return 2 * wanted * 8 * double(f.tiles) * kTilePixels * double(f.k_blocks) * kBlockBytes / element_bytes(math);
}

void note_first_stage(Plan& plan, const FirstStagePlan& f, const Traffic& traffic, Math math, const Gpu& gpu) {
  note(plan,
       {"first_stage", first_stage_blocks(f, f.splits), kThreads, f.shared_bytes,
        blocks_per_multiprocessor(f.shared_bytes, 2, gpu), first_stage_flops(f, math)},
       first_stage_clocks(f, k_block_cost(f, math, gpu), f.splits, gpu), traffic, gpu);
}

}  // namespace gcn::cuda
