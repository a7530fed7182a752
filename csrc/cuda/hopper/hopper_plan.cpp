// Which launches of a plan the Hopper kernels take over, with which sizes, and how long they should take.
#include "hopper_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "../plan_parts.h"
#include "hopper_plan_rules.h"
#include "hopper_tiles.h"

namespace gcn::cuda {
namespace {

constexpr const char* kNotHere = "the kernels of sm_90a are not in this build, or the GPU is another one";

// The share of its nominal rate that wgmma is taken to reach under load: cost.h's 16-bit rate is 60 % of what it reaches.
double wgmma_fma_per_clock(const Gpu& gpu) { return gpu.fma_16bit / 0.6; }

bool measured_faster(const Sizes& s, bool backward) {
  return std::any_of(kMeasuredFaster.begin(), kMeasuredFaster.end(), [&](const MeasuredFaster& m) {
    const int64_t pixels = s.n * s.h * s.w;
    return m.backward == backward && s.c >= m.channels_from && s.c <= m.channels_to && pixels >= m.pixels_from &&
           pixels <= m.pixels_to;
  });
}

// --- first stage

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

// Pixels of a tile that follow each other in one bundle of lines, by which x is copied.
std::string why_not_boxes(const FirstStagePlan& f, HopperFirstStagePlan& h) {
  for (int axis = 0; axis < 2; ++axis) {
    const auto& b = f.branch[axis];
    if (kTilePixels % b.interleave) return "lines alternate in a way that boxes do not";
    h.box_lines[axis] = b.interleave;
    h.box_positions[axis] = std::gcd(b.length, kTilePixels / b.interleave);
    if (h.box_lines[axis] * h.box_positions[axis] < 8) {
      return "x would be copied by fewer than 8 pixels: the map's height and width have to be multiples of 8";
    }
  }
  return "";
}

// --- weight gradient

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

// --- input gradient

int steps(const HopperInputGradPlan& h, int axis, int taps) {
  const int pairs = h.octets[axis] / 2, single = h.octets[axis] % 2;
  return pairs * taps + single * (taps + 1) / 2;
}

double input_grad_clocks(const Sizes& s, const HopperInputGradPlan& h, const Gpu& gpu) {
  constexpr double kStartClocks = 2500, kWriteClocks = 1000;
  double all_steps = 0, bytes = h.windows_bytes;
  for (int axis = 0; axis < 2; ++axis) {
    const int taps = axis == 0 ? h.window_h[0] - kGradPatchH + 1 : h.window_w[1] - kGradPatchW + 1;
    all_steps += steps(h, axis, taps);
  }
  bytes += all_steps * h.outputs * 32;
  const double output = double(kGradPatchH) * kGradPatchW * h.outputs * 2;
  const double tensor = kGradPatchH * kGradPatchW * 16.0 * h.outputs * all_steps / wgmma_fma_per_clock(gpu);
  const double shared = (2 * (64.0 + h.outputs) * 32 * all_steps + bytes) / 128;
  const double l2 = (bytes + output) / (gpu.l2 / gpu.clock / gpu.multiprocessors);
  const double unit = std::max({tensor, shared, l2}) + 2 * output / 128 + kWriteClocks;
  return kStartClocks + busiest(s.n * h.patches_h * h.patches_w * h.n_tiles, gpu) * unit;
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

bool wants_hopper(const Sizes& s, bool backward, const Gpu& gpu) {
  return gpu.generation == Generation::kHopper || (gpu.hopper && measured_faster(s, backward));
}

std::string plan_hopper_first_stage(Math math, const SourcePlan& source, const Gpu& gpu, FirstStagePlan& f,
                                    HopperFirstStagePlan& h) {
  if (!gpu.hopper) return kNotHere;
  if (!hopper_first_stage_compiled(math, f.column_blocks)) return "the first stage takes bfloat16 and float16";
  if (!source.channels_last) return "the first stage takes channels_last";
  if (const std::string why = why_not_boxes(f, h); !why.empty()) return why;
  for (const auto& b : f.branch) h.sums = std::max(h.sums, b.group_mid * (kTilePixels + 2 * b.overhang));
  h.stages = kHopperStagesMost;
  while (h.stages > kHopperStagesLeast &&
         hopper_first_stage_shared_bytes(f.column_blocks, h.sums, h.stages) > gpu.shared_per_block)
    --h.stages;
  h.shared_bytes = hopper_first_stage_shared_bytes(f.column_blocks, h.sums, h.stages);
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

void note_hopper_first_stage(Plan& plan, const FirstStagePlan& f, const HopperFirstStagePlan& h, const Traffic& traffic,
                             const Gpu& gpu) {
  const double flops =
      2.0 * double(units(f, h.cluster, 1)) * h.cluster * kTilePixels * 16 * f.column_blocks * f.k_blocks * (kBlockBytes / 2);
  note(plan, {"hopper_first_stage", h.blocks, kHopperThreads, h.shared_bytes, 1, flops},
       first_stage_clocks(f, gpu, h.cluster, f.splits), traffic, gpu);
}

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

std::string plan_hopper_input_grad(const Sizes& s, Math math, const Gpu& gpu, const LineConvPlan& l, HopperInputGradPlan& h) {
  if (!gpu.hopper) return kNotHere;
  if (math != Math::kHalf && math != Math::kBFloat16) return "the input gradient takes bfloat16 and float16";
  if (l.out.c != 1 || !l.vector) return "the input gradient is written as channels_last, in whole pieces of 16 bytes";
  constexpr int kBoxMost = 256;
  double quickest = std::numeric_limits<double>::infinity();
  for (int outputs : {256, 128}) {
    HopperInputGradPlan trial;
    size_input_grad(s, l, outputs, trial);
    trial.stages = kHopperStagesMost;
    const auto bytes = [&] {
      return hopper_input_grad_shared_bytes(outputs, trial.windows_bytes, trial.zeros_bytes, trial.stages);
    };
    while (trial.stages > kHopperStagesLeast && bytes() > gpu.shared_per_block) --trial.stages;
    trial.shared_bytes = bytes();
    if (trial.shared_bytes > gpu.shared_per_block || trial.window_h[0] > kBoxMost || trial.window_w[1] > kBoxMost) continue;
    const double clocks = input_grad_clocks(s, trial, gpu);
    if (clocks < quickest) quickest = clocks, h = trial;
  }
  if (quickest == std::numeric_limits<double>::infinity()) return "the input gradient's windows do not fit shared memory twice";
  h.blocks = int(std::min<int64_t>(gpu.multiprocessors, s.n * h.patches_h * h.patches_w * h.n_tiles));
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

void add_reason(HopperPlan& plan, const std::string& why) {
  if (why.empty() || plan.why_portable.find(why) != std::string::npos) return;
  plan.why_portable += (plan.why_portable.empty() ? "" : "; ") + why;
}

}  // namespace gcn::cuda
