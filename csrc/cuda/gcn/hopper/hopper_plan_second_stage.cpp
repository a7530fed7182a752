// Line convolutions of maps with few channels with the Hopper kernel: patches, stores, and how long they should take.
#include <algorithm>
#include <iterator>
#include <limits>

#include "../plan_parts.h"
#include "hopper_measured.h"
#include "hopper_plan_rules.h"
#include "hopper_tiles.h"

namespace gcn::cuda {
namespace {

int steps(const HopperSecondStagePlan& h, int branch) {
  const int pairs = h.octets[branch] / 2, single = h.octets[branch] % 2, taps = 2 * h.radius[branch] + 1;
  return pairs * taps + single * (taps + 1) / 2;
}
int steps(const HopperSecondStagePlan& h) { return steps(h, 0) + steps(h, 1); }

// Units of the busiest block.
int64_t rounds(const Sizes& s, const HopperSecondStagePlan& h) {
  return ceil_div(s.n * h.patches_h * h.patches_w, h.blocks / h.n_tiles);
}

// Clocks of the busiest multiprocessor. Products and outputs hardly overlap: while one warpgroup writes, the other multiplies at
// half the rate of both. Where a block has several units, warpgroup 2 starts half a unit's products late.
double second_stage_clocks(const Sizes& s, const HopperSecondStagePlan& h, const Gpu& gpu) {
  // As an H200 took them, on four maps at two batches within a sixth: for the start and the end, and for a half's outputs in one
  // map, with or without sums.
  constexpr double kStartClocks = 1400, kWriteClocks = 1550, kPixelClocks = 1.9, kSumsClocks = 200;
  constexpr double kTurnClocks = 600, kTurnPixelClocks = 1.5;  // predicted
  const double pixels = h.patch_pixels, per_clock = gpu.l2 / gpu.clock / gpu.multiprocessors;
  const double tensor = kSecondOutputs * 64 * 16.0 / wgmma_fma_per_clock(gpu);
  // Eight rows of A that are not aligned are reckoned as two reads of 128 bytes; those of B are aligned.
  const double shared = ((h.turned ? 1 : 2) * 64 + kSecondOutputs) * 32 / 128.0;
  const double products = pixels / 64 * steps(h) * std::max(tensor, shared);
  const double write = kWriteClocks + kPixelClocks * pixels, writes = h.apart ? 2 * (write + kSumsClocks) : write;
  const double turn = h.turned ? kTurnClocks + kTurnPixelClocks * pixels : 0;
  const double windows = h.windows_bytes / per_clock, unit = std::max(products + turn + writes, windows);
  const int64_t units = rounds(s, h);
  return kStartClocks + h.weights_bytes / per_clock + windows + double(units) * unit + (units > 1 ? products / 2 : 0);
}

void size_second_stage(const Sizes& s, const SecondStageBranch (&of)[2], int size, HopperSecondStagePlan& h) {
  const int height = 16 * kSecondStageDown[size], width = 8 * kSecondStageAcross[size];
  h.patch_pixels = height * width;
  h.patches_h = int(ceil_div(s.h, height)), h.patches_w = int(ceil_div(s.w, width));
  h.windows_bytes = h.zeros_bytes = h.weights_bytes = 0;
  for (int i = 0; i < 2; ++i) {
    const int radius = of[i].taps.radius;
    h.radius[i] = radius, h.octets[i] = of[i].channels / kOctet;
    h.phases[i] = int(ceil_div(h.octets[i], 2));
    h.k_blocks[i] = int(ceil_div((h.octets[i] > 1 ? 2 : 1) * (2 * radius + 1), 4));
    h.window_h[i] = height + (i == 1 ? 2 * radius : 0), h.window_w[i] = width + (i == 0 ? 2 * radius : 0);
    const int pixels = h.window_h[i] * h.window_w[i], in_row = h.turned && i == 0 ? h.window_h[i] : h.window_w[i];
    h.plane_bytes[i] = h.turned ? pixels * kPieceBytes : second_stage_plane_bytes(pixels, h.octets[i]);
    h.windows_bytes += h.octets[i] * h.plane_bytes[i];
    h.zeros_bytes = std::max(h.zeros_bytes, (7 * in_row + 8) * kPieceBytes);
    const int used = k_blocks_of_map(h.octets[i], radius);
    h.weights_bytes += used * kSecondOutputs * kBlockBytes;
    h.packed_bytes[i] = size_t(h.n_tiles) * h.phases[i] * h.k_blocks[i] * kSecondOutputs * kBlockBytes;
  }
}

}  // namespace

std::string plan_hopper_second_stage(const Sizes& s, Math math, const Gpu& gpu, const SecondStageBranch (&of)[2],
                                     const LineConvPlan* const (&outs)[2], HopperSecondStagePlan& h) {
  if (!gpu.hopper) return kNotHere;
  if (gpu.overrides.second_stage == 1) return "the second stage was asked for with the portable kernels";
  if (math != Math::kHalf && math != Math::kBFloat16) return "the second stage takes bfloat16 and float16";
  const bool apart = outs[0] != outs[1];
  const bool turned = gpu.overrides.second_stage_turned ? gpu.overrides.second_stage_turned == 1 : kMeasuredTurned;
  const int64_t outputs = std::max(outs[0]->outputs_written, outs[1]->outputs_written);
  const int64_t octets = std::max(of[0].channels, of[1].channels) / kOctet;
  if (s.h * s.w * octets > std::numeric_limits<int32_t>::max() || s.n * s.h * s.w > std::numeric_limits<int32_t>::max())
    return "the second stage's maps have too many pixels";
  double quickest = std::numeric_limits<double>::infinity();
  for (int size = 0; size < int(std::size(kSecondStageDown)); ++size) {
    HopperSecondStagePlan trial;
    trial.apart = apart, trial.turned = turned;
    trial.n_tiles = int(ceil_div(outputs, kSecondOutputs));
    size_second_stage(s, of, size, trial);
    if (!allowed(gpu.overrides.second_stage, trial.patch_pixels)) continue;
    trial.shared_bytes =
        hopper_second_stage_shared_bytes(trial.weights_bytes, trial.windows_bytes, trial.zeros_bytes, trial.patch_pixels / 2);
    if (trial.shared_bytes > gpu.shared_per_block) continue;
    const int64_t patches = s.n * trial.patches_h * trial.patches_w;
    const int64_t side_by_side = std::max<int64_t>(1, gpu.multiprocessors / trial.n_tiles);
    trial.blocks = trial.n_tiles * int(std::min(patches, side_by_side));
    const double clocks = second_stage_clocks(s, trial, gpu);
    if (clocks < quickest) quickest = clocks, h = trial;
  }
  if (quickest == std::numeric_limits<double>::infinity())
    return "the second stage's weights and windows do not fit shared memory, or overrides leave nothing";
  for (int i = 0; i < 2; ++i) {
    LineConvPlan out = *outs[i];
    out.tile_h = 16 * kSecondStageDown[0], out.tile_w = 8 * kSecondStageAcross[0], out.n_tiles = h.n_tiles;
    choose_stores(out, s, math, outs[i]->out_aligned);
    h.order[i] = out.order, h.vector[i] = out.vector;
  }
  h.used = true;
  return "";
}

void note_hopper_second_stage(Plan& plan, const char* name, const HopperSecondStagePlan& h, const Traffic& traffic,
                              const Gpu& gpu) {
  const Sizes& s = plan.sizes;
  const double pixels = double(s.n * h.patches_h * h.patches_w) * h.patch_pixels;
  note(plan, {name, h.blocks, kHopperThreads, h.shared_bytes, 1, 2 * pixels * h.n_tiles * kSecondOutputs * 16 * steps(h)},
       second_stage_clocks(s, h, gpu), traffic, gpu);
}

}  // namespace gcn::cuda
