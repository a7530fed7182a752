// Forward in two launches, for a single image: what is packed, copied and completed elsewhere is each a launch of its own.
#include <algorithm>
#include <limits>

#include "plan_parts.h"

namespace gcn::cuda {
namespace {

// Predicted, not measured, in clocks: what a block does between its last sum and the first of another split's, beside reading
// them. Of the second stage, what a block takes to pack the weights, 18 pieces a thread and four at a time, while nothing else
// runs, and to issue that; a k-block of a warp that finds its operands in shared memory; and the share that follows the wait of
// what line_conv.cuh has to do beside k-blocks, because tables are ready.
constexpr double kTicketClocks = 1500, kPackClocks = 3500, kPackIssue = 1800, kDepthClocks = 300, kAfterTheWait = 0.5;

// Of the last block of a tile.
double completing_seconds(const FirstStagePlan& f, int splits, const Gpu& gpu) {
  if (splits == 1) return 0;
  const int mids = std::max(f.branch[0].group_mid, f.branch[1].group_mid);
  const double bytes = double(splits) * mids * kTilePixels * 4;
  return (kTicketClocks + bytes / (gpu.l2 / gpu.clock / gpu.multiprocessors)) / gpu.clock;
}

int64_t blocks_of(const FirstStagePlan& f, int splits) {
  return int64_t(f.tiles) * (f.branch[0].groups + f.branch[1].groups) * splits;
}

}  // namespace

std::string plan_unpacked(const Sizes& s, Math math, const SourcePlan& source, const LineConvPlan& second, const Gpu& gpu,
                          UnpackedPlan& plan) {
  if (element_bytes(math) != 2) return "unpacked weights are read in bfloat16 and float16";
  if (source.packed || !source.channels_last) return "unpacked weights are read where x is, as channels_last";
  FirstStagePlan f = plan_first_stage(s, math, source, gpu);
  if (!unpacked_first_stage_compiled(math, f.column_blocks)) return "no first stage of unpacked weights has these columns";
  for (const auto& b : f.branch) {
    if (b.overhang || b.tap_groups > 1) return "the first stage of unpacked weights takes whole lines, and all taps at a time";
  }
  int sums = 0;
  for (const auto& b : f.branch) sums = std::max(sums, b.group_mid * first_stage_sums_row(kTilePixels));
  f.shared_bytes = unpacked_first_stage_shared_bytes(f.column_blocks, sums);
  require_shared("the first stage", f.shared_bytes, gpu);

  constexpr LineTileShape kShape = line_tile_shape(LineTile::kNarrowSmall);
  if (s.o > kShape.outputs()) return "the second stage of unpacked weights has at most 24 outputs";
  LineConvPlan l = plan_line_conv(s, math, LineTile::kNarrowSmall, second.terms, s.o, s.o, second.out, second.out_aligned, gpu);
  if (l.phases > 1) return "the second stage of unpacked weights takes all middle channels at a time";
  const int ring = line_stages(kShape) * line_stage_bytes(kShape), weights = l.k_blocks * kShape.outputs() * kBlockBytes;
  l.shared_bytes += std::max(0, weights - ring);
  l.packed_bytes = 0;
  require_shared("the second stage", l.shared_bytes, gpu);

  constexpr int kSplitsMost = 32;
  double best = std::numeric_limits<double>::infinity();
  for (int splits = 1; splits <= std::min(kSplitsMost, f.k_blocks); ++splits) {
    if (splits > 1 && blocks_of(f, 1) > kTicketsOfACall) break;
    if (const int asked = gpu.overrides.first_stage_splits; asked && asked != splits) continue;
    const double seconds = first_stage_seconds(f, splits, math, gpu) + completing_seconds(f, splits, gpu);
    if (seconds < best) best = seconds, f.splits = splits;
  }
  if (best == std::numeric_limits<double>::infinity()) return "overrides leave no splits of the first stage of unpacked weights";
  for (auto& b : f.branch) {
    b.slots = f.splits, b.complete = f.splits == 1;
    b.packed_bytes = 0;
    b.partial_bytes = b.complete ? 0 : size_t(b.slots) * f.tiles * b.mid * kTilePixels * 4;
  }
  plan = {true, f.splits > 1, f, l};
  return "";
}

void note_unpacked(Plan& plan, const UnpackedPlan& of, Math math, const Gpu& gpu) {
  const Sizes& s = plan.sizes;
  const FirstStagePlan& f = of.first;
  const double pixels = double(s.n * s.h * s.w), bytes = element_bytes(math),
               seconds = first_stage_seconds(f, f.splits, math, gpu);
  Traffic first{(pixels + double(s.k1 * s.m_l + s.k3 * s.m_r)) * double(s.c) * bytes, 0};
  first.leave(pixels * (padded(s.m_l) + padded(s.m_r)) * bytes, gpu);
  const int side_by_side = blocks_per_multiprocessor(f.shared_bytes, 2, gpu);
  note(plan, {"unpacked_first_stage", blocks_of(f, f.splits), kThreads, f.shared_bytes, side_by_side, first_stage_flops(f, math)},
       (seconds + completing_seconds(f, f.splits, gpu)) * gpu.clock, first, gpu);

  const LineConvPlan* const second = &of.second;
  LaunchWork y = line_conv_work(&second, 1, s, math, gpu);
  BlockCost& cost = y.kinds[0].cost;
  const LineTileShape shape = line_tile_shape(second->tile);
  cost.l2 -= double(second->k_blocks) * kBlockBytes * shape.outputs();
  const double beside = line_tile(second->tile).clocks.block;
  cost.alone = kDepthClocks * second->k_blocks / shape.warps_k + kAfterTheWait * beside;
  // Its blocks find room beside those of the first stage, and get ready meanwhile, where these are one to a multiprocessor.
  if (blocks_of(f, f.splits) <= gpu.multiprocessors) {
    cost.issue -= (1 - kAfterTheWait) * beside;
  } else {
    cost.alone += kPackClocks, cost.issue += kPackIssue;
  }
  note(plan, "unpacked_second_stage y", kThreads, line_blocks_per_multiprocessor(false, second->tile), y, gpu);
}

}  // namespace gcn::cuda
