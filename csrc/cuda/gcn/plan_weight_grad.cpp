// Weight gradients: column blocks, patch of pixels, splits of the pixels.
#include <algorithm>
#include <limits>
#include <vector>

#include "plan_parts.h"

namespace gcn::cuda {
namespace {

int64_t weight_grad_shared_bytes(const WeightGradPlan& g, Math math) {
  int64_t window = 0, places = 0;
  for (const auto& b : g.branch) {
    if (!b.groups) continue;
    const int halo = 2 * b.taps.radius;
    const int64_t pixels = int64_t(g.patch_h + (b.taps.axis == 0 ? halo : 0)) * (g.patch_w + (b.taps.axis == 1 ? halo : 0));
    window = std::max(window, pixels * window_pixel_bytes(b.octets, kOctet * element_bytes(math)));
    places = std::max(places, (pixels + patch_pixels(element_bytes(math))) * kWeightGradPlaceBytes);
  }
  return kWeightGradStages * (weight_grad_a_bytes(g.narrow) + window) + places;
}

// The most octets of channels that one group of consecutive (octet, tap) blocks touches.
int octets_of_groups(int blocks, int taps, int column_blocks) {
  int most = 0;
  for (int first = 0; first < blocks; first += column_blocks) {
    most = std::max(most, (std::min(first + column_blocks, blocks) - 1) / taps - first / taps + 1);
  }
  return most;
}

// Narrow groups are even, so that all blocks last equally long.
void group_columns(WeightGradPlan& g, int most) {
  for (auto& b : g.branch) {
    b.groups = int(ceil_div(b.blocks, most));
    if (!b.groups) continue;
    b.group_blocks = g.narrow ? int(round_up(ceil_div(b.blocks, b.groups), kNarrowDeal)) : most;
    b.octets = octets_of_groups(b.blocks, b.taps.taps, b.group_blocks);
  }
}

// The share of its column blocks that a step multiplies, on average: those with a tap that leads from one of the step's pixels to
// another place in the map, in pairs, as find_wanted() of weight_grad.cuh has them.
double wanted_share(const WeightGradPlan& g, const Sizes& s, Math math) {
  const int depth = 32 / element_bytes(math), steps = patch_pixels(element_bytes(math)) / depth;
  int64_t wanted = 0, all = 0;
  for (const auto& b : g.branch) {
    const int length = int(b.taps.axis == 0 ? s.h : s.w), patches = b.taps.axis == 0 ? g.patches_h : g.patches_w;
    const int patch = b.taps.axis == 0 ? g.patch_h : g.patch_w;
    const bool across = b.by_columns == (b.taps.axis == 1);
    const int width = across ? ((depth - 1) >> b.inner_log2) + 1 : patch;
    for (int i = 0; i < patches * steps && b.groups; ++i) {
      const int first = i / steps * patch + (across ? (i % steps * depth) >> b.inner_log2 : 0);
      const int last = std::min(first + width, length) - 1;
      const int low = std::max(0, b.taps.radius - last);
      const int high = first <= last ? std::min(b.taps.taps, length - first + b.taps.radius) : low;
      const int octets = b.channels / kOctet;
      wanted += octets * std::min<int64_t>(2 * (ceil_div(high, 2) - low / 2), b.taps.taps);
      all += octets * b.taps.taps;
    }
  }
  return all ? double(wanted) / double(all) : 1;
}

// Blocks that a multiprocessor takes.
int weight_grad_resident(const WeightGradPlan& g, Math math, const Gpu& gpu) {
  return blocks_per_multiprocessor(g.shared_bytes, weight_grad_blocks_per_multiprocessor(math == Math::kFloat, g.narrow), gpu);
}

// Of a block with this many patches.
BlockCost weight_grad_block_cost(const WeightGradPlan& g, double patches, double share, Math math, const Gpu& gpu) {
  const double rows = weight_grad_rows(g.narrow), depth = patch_pixels(element_bytes(math)), warps = kThreads / 32;
  const double columns = 8.0 * std::max(g.branch[0].group_blocks, g.branch[1].group_blocks);
  BlockCost c{};
  c.tensor = patches * share * rows * columns * depth / fma_per_clock(math, gpu);
  // Each warp loads what is all warps' and its own share of the rest.
  const double loaded = g.narrow ? warps * rows + share * columns : rows + warps * share * columns;
  c.shared = patches * depth * element_bytes(math) * loaded / 128;
  c.l2 = patches * double(weight_grad_shared_bytes(g, math)) / kWeightGradStages;
  c.epilogue = rows * columns * 4 / 32;  // sums to memory
  if (g.narrow) {
    // Instructions of a warp for a patch; on an H100 full of blocks, each took 2.2 clocks of a multiprocessor in the end, and a
    // block had one of each of its warps every 11.5 clocks.
    const double instructions = 150 + 180 * columns / 8 / kNarrowColumnBlocks;
    c.issue = patches * 2.2 * instructions, c.alone = patches * 11.5 * instructions;
  }
  return c;
}

// The same in a launch of `blocks` of them. Four warps alone on a multiprocessor leave it idle for at least half of the time: it
// takes two blocks (one alone on each of an H100 took six times what its products take, at 0.7 instructions a clock).
BlockCost weight_grad_block_cost(const WeightGradPlan& g, double patches, double share, int64_t blocks, Math math,
                                 const Gpu& gpu) {
  BlockCost c = weight_grad_block_cost(g, patches, share, math, gpu);
  const double own = busiest(blocks, gpu), together = weight_grad_resident(g, math, gpu);
  double busy = 0;
  for (double left = own; left > 0; left -= together) busy += std::max(std::min(left, together), 2.0);
  c.tensor *= busy / own, c.shared *= busy / own;
  return c;
}

// Narrow ones share a launch with what is `beside` them, which fills what they leave.
double weight_grad_clocks(const WeightGradPlan& g, const Sizes& s, int64_t splits, double share, const LaunchWork& beside,
                          Math math, const Gpu& gpu) {
  const int64_t tiles = ceil_div(g.channels, weight_grad_rows(g.narrow)), patches = s.n * g.patches_h * g.patches_w;
  const int64_t blocks = (g.branch[0].groups + g.branch[1].groups) * tiles * splits;
  const double own = double(ceil_div(patches, splits));
  std::vector<BlockKind> kinds = beside.kinds;
  kinds.push_back({blocks, g.narrow ? weight_grad_block_cost(g, own, share, math, gpu)
                                    : weight_grad_block_cost(g, own, share, blocks, math, gpu)});
  return clocks_of(kinds, weight_grad_resident(g, math, gpu), gpu);
}

// Column blocks of a group that is not narrow: with the fewest to multiply.
int wide_columns(const WeightGradPlan& g, Math math) {
  double least = std::numeric_limits<double>::infinity();
  int best = 0;
  for (int column_blocks : kWeightGradColumnBlocks) {
    if (!weight_grad_compiled(math, column_blocks)) continue;
    double cost = 0;
    for (const auto& b : g.branch) cost += double(ceil_div(b.blocks, column_blocks)) * (column_blocks + 2);
    if (cost < least) least = cost, best = column_blocks;
  }
  return best;
}

// The shape of a patch with least to do. Returns whether there is one whose windows fit shared memory.
bool choose_patch(WeightGradPlan& g, const Sizes& s, Math math, bool channels_last, const Gpu& gpu) {
  const int pixels = patch_pixels(element_bytes(math));
  double fewest = std::numeric_limits<double>::infinity();
  WeightGradPlan best = g;
  for (g.patch_h = 1; g.patch_h <= pixels; g.patch_h *= 2) {
    g.patch_w = pixels / g.patch_h;
    if (!channels_last && g.patch_w < piece_elements(math)) continue;  // NCHW pieces are along a row
    g.patches_h = int(ceil_div(s.h, g.patch_h)), g.patches_w = int(ceil_div(s.w, g.patch_w));
    const int64_t bytes = weight_grad_shared_bytes(g, math);
    if (bytes > gpu.shared_per_block) continue;
    const BlockCost block = weight_grad_block_cost(g, 1, 1, math, gpu);
    const double cost = double(g.patches_h) * g.patches_w * (std::max(block.tensor, block.shared) + double(bytes) / 64);
    if (cost < fewest) fewest = cost, best = g;
  }
  g = best;
  g.shared_bytes = int(weight_grad_shared_bytes(g, math));
  for (auto& b : g.branch) {
    b.by_columns = channels_last && b.taps.axis == 1;
    for (const int inner = b.by_columns ? g.patch_h : g.patch_w; 1 << b.inner_log2 < inner;) ++b.inner_log2;
  }
  return fewest < std::numeric_limits<double>::infinity();
}

// Returns the seconds they take, with those of adding them up.
double choose_splits(WeightGradPlan& g, const Sizes& s, const LaunchWork& beside, Math math, const Gpu& gpu) {
  const int64_t most = g.narrow ? 256 : 64;
  const int64_t patches = s.n * g.patches_h * g.patches_w;
  const double share = wanted_share(g, s, math), partial = double(g.channels) * g.blocks_per_row * kOctet * 4;
  double quickest = std::numeric_limits<double>::infinity();
  for (int64_t splits = 1; splits <= std::min(most, patches); ++splits) {
    const double clocks = weight_grad_clocks(g, s, splits, share, beside, math, gpu);
    const double seconds = clocks / gpu.clock + 2 * double(splits) * partial / gpu.l2;
    if (seconds < quickest) quickest = seconds, g.splits = int(splits);
  }
  g.partial_bytes = size_t(g.splits) * size_t(partial);
  return quickest;
}

}  // namespace

WeightGradPlan plan_weight_grad(const Sizes& s, Math math, int64_t channels, bool narrow, bool channels_last,
                                const Taps (&taps)[2], const int64_t (&b_channels)[2], const bool (&wanted)[2],
                                const LaunchWork& beside, const Gpu& gpu) {
  WeightGradPlan g{};
  g.narrow = narrow;
  g.channels = int(channels);
  for (int i = 0; i < 2; ++i) {
    auto& b = g.branch[i];
    b.taps = taps[i];
    b.channels = padded(b_channels[i]);
    b.blocks = wanted[i] ? b.channels / kOctet * b.taps.taps : 0;
    b.first_block = g.blocks_per_row;
    g.blocks_per_row += b.blocks;
  }
  std::vector<int> sizes;  // of groups, in column blocks
  if (narrow) {
    for (int most = kNarrowColumnBlocks; most >= kNarrowDeal; most /= 2) sizes.push_back(most);
  } else {
    sizes = {wide_columns(g, math)};
  }
  g.column_blocks = sizes[0];
  double quickest = std::numeric_limits<double>::infinity();
  WeightGradPlan best;
  for (int most : sizes) {
    WeightGradPlan trial = g;
    group_columns(trial, most);
    if (!choose_patch(trial, s, math, channels_last, gpu)) continue;
    const double seconds = choose_splits(trial, s, beside, math, gpu);
    if (seconds < quickest) quickest = seconds, best = trial;
  }
  if (quickest == std::numeric_limits<double>::infinity()) {
    throw TooLarge("the window of a weight gradient does not fit shared memory");
  }
  return best;
}

LaunchWork weight_grad_work(const WeightGradPlan& g, const Traffic& read, const Sizes& s, Math math, const Gpu& gpu) {
  const int64_t tiles = ceil_div(g.channels, weight_grad_rows(g.narrow)), patches = s.n * g.patches_h * g.patches_w;
  const int64_t groups = (g.branch[0].groups + g.branch[1].groups) * tiles;
  const double share = wanted_share(g, s, math), own = double(ceil_div(patches, g.splits));
  LaunchWork work;
  work.kinds = {{groups * g.splits, g.narrow ? weight_grad_block_cost(g, own, share, math, gpu)
                                             : weight_grad_block_cost(g, own, share, groups * g.splits, math, gpu)}};
  work.shared_bytes = g.shared_bytes;
  const BlockCost all = weight_grad_block_cost(g, double(patches), share, math, gpu);
  work.flops = 2 * all.tensor * fma_per_clock(math, gpu) * double(groups);
  work.traffic = read;
  work.traffic.leave(double(g.partial_bytes), gpu);
  return work;
}

void note_weight_grad(Plan& plan, const char* name, const WeightGradPlan& g, const Traffic& read, Math math, const Gpu& gpu) {
  const int most = weight_grad_blocks_per_multiprocessor(math == Math::kFloat, g.narrow);
  note(plan, name, kThreads, most, weight_grad_work(g, read, plan.sizes, math, gpu), gpu);
}

}  // namespace gcn::cuda
