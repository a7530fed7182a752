// The gradient of x with the Hopper kernel: tiles, and how long it should take.
#include <algorithm>
#include <limits>

#include "../plan_parts.h"
#include "hopper_measured.h"
#include "hopper_plan_rules.h"
#include "hopper_tiles.h"

namespace gcn::cuda {
namespace {

int steps(const HopperInputGradPlan& h, int axis, int taps) {
  const int pairs = h.octets[axis] / 2, single = h.octets[axis] % 2;
  return pairs * taps + single * (taps + 1) / 2;
}

// Units that clusters are given, those that follow each other with the same windows as one.
int64_t units(const Sizes& s, const HopperInputGradPlan& h) {
  return ceil_div(s.n * h.patches_h * h.patches_w, h.cluster) * ceil_div(h.n_tiles, h.together);
}

// Steps of the depth, of both branches.
double all_steps(const HopperInputGradPlan& h) {
  const InputGradShape shape = input_grad_shape(h.tile);
  return steps(h, 0, h.window_h[0] - shape.patch_h + 1) + steps(h, 1, h.window_w[1] - shape.patch_w + 1);
}

// Bytes of whole lines that take L2 as long as a unit's output does. Parts of lines are what patches have of longer rows of NCHW.
double written(const Sizes& s, const InputGradShape& shape, double output) {
  constexpr double kLine = 128, kPartOfALine = 2.4;  // times a whole one: as an H200 took for parts of 32 bytes
  const double row = 2.0 * shape.patch_w;
  return shape.nchw && row < kLine && shape.patch_w < s.w ? output / row * kLine * kPartOfALine : output;
}

// Clocks of the busiest multiprocessor. While one warpgroup writes its output, the other multiplies: a unit takes as long as both
// products, or one product and one output, or what shared memory or L2 needs for it.
double input_grad_clocks(const Sizes& s, const HopperInputGradPlan& h, const Gpu& gpu) {
  // As an H100 took them in channels_last: until the first products, around each unit's, and for a unit's output.
  constexpr double kStartClocks = 8000, kUnitClocks = 1200, kWriteClocks = 1000, kSharedShare = 0.8;
  const InputGradShape shape = input_grad_shape(h.tile);
  const double depth = all_steps(h), weights = depth * shape.channels * 32, output = double(shape.pixels()) * shape.channels * 2;
  const double tensor = shape.pixels() * 16.0 * shape.channels * depth / wgmma_fma_per_clock(gpu);
  const double reads = 2.0 * (64 + shape.products() * shape.columns()) * 32 * depth;
  const double windows = double(h.windows_bytes) / h.together;
  const double shared = (reads + windows + weights) / (128 * kSharedShare);
  const double l2 = (windows + weights / h.cluster + written(s, shape, output)) / (gpu.l2 / gpu.clock / gpu.multiprocessors);
  const double epilogue = output / 128 + kWriteClocks;  // of one warpgroup: half of the output, 64 bytes a clock
  const double unit = std::max({tensor, tensor / 2 + epilogue, shared, l2}) + kUnitClocks;
  const double most = double(ceil_div(units(s, h), clusters_side_by_side(h.cluster, gpu))) * h.together;  // of one block
  return kStartClocks + most * unit + epilogue;
}

void size_input_grad(const Sizes& s, const LineConvPlan& l, InputGradTile tile, HopperInputGradPlan& h) {
  const InputGradShape shape = input_grad_shape(tile);
  h.tile = tile;
  h.n_tiles = int(ceil_div(s.c, shape.channels));
  h.patches_h = int(ceil_div(s.h, shape.patch_h)), h.patches_w = int(ceil_div(s.w, shape.patch_w));
  h.windows_bytes = h.zeros_bytes = 0;
  for (int axis = 0; axis < 2; ++axis) {
    const auto& t = l.terms[size_t(axis)];
    h.octets[axis] = t.channels / kOctet;
    h.phases[axis] = int(ceil_div(h.octets[axis], 2));
    h.k_blocks[axis] = int(ceil_div((h.octets[axis] > 1 ? 2 : 1) * t.taps.taps, 4));
    h.window_h[axis] = shape.patch_h + (axis == 0 ? 2 * t.taps.radius : 0);
    h.window_w[axis] = shape.patch_w + (axis == 1 ? 2 * t.taps.radius : 0);
    h.windows_bytes += h.octets[axis] * h.window_h[axis] * h.window_w[axis] * kPieceBytes;
    h.zeros_bytes = std::max(h.zeros_bytes, ((shape.rows() - 1) * h.window_w[axis] + shape.patch_w) * kPieceBytes);
    h.packed_bytes[axis] = size_t(h.n_tiles) * h.phases[axis] * h.k_blocks[axis] * shape.channels * kBlockBytes;
  }
}

// Whether what is written to `out` is whole pieces: octets of a pixel's channels, or of a row's pixels.
bool writes_pieces(const Sizes& s, const Strides& out, bool nchw) {
  const auto whole = [](int64_t stride, int64_t size) { return size == 1 || stride % kOctet == 0; };
  return nchw ? out.w == 1 && s.w % kOctet == 0 && whole(out.h, s.h) && whole(out.c, s.c) && whole(out.n, s.n)
              : s.c % kOctet == 0 && whole(out.w, s.w) && whole(out.h, s.h) && whole(out.n, s.n);
}

// The tile, if the environment leaves it: of channels_last by its channels, of NCHW by the rows and columns of its patch.
bool allowed_tile(InputGradTile tile, bool nchw, const Overrides& asked) {
  const InputGradShape shape = input_grad_shape(tile);
  return shape.nchw == nchw &&
         (nchw ? allowed(asked.input_grad_rows, shape.patch_h) && allowed(asked.input_grad_columns, shape.patch_w)
               : allowed(asked.input_grad_channels, shape.channels));
}

}  // namespace

std::string plan_hopper_input_grad(const Sizes& s, Math math, const Gpu& gpu, const LineConvPlan& l, HopperInputGradPlan& h) {
  if (!gpu.hopper) return kNotHere;
  if (gpu.overrides.input_grad_portable) return "GCN_KERNELS_PLAN asks for the portable input gradient";
  if (math != Math::kHalf && math != Math::kBFloat16) return "the input gradient takes bfloat16 and float16";
  const bool nchw = l.out.c != 1;
  if (!writes_pieces(s, l.out, nchw)) {
    return nchw ? "the input gradient is written as NCHW in rows that are multiples of eight pixels"
                : "the input gradient is written as channels_last in multiples of eight channels";
  }
  if (nchw && !kMeasuredIntoNchw && gpu.generation == Generation::kMeasured) {
    return "no GPU has shown the input gradient of sm_90a faster into NCHW";
  }
  double quickest = std::numeric_limits<double>::infinity();
  for (InputGradTile tile : {InputGradTile::kChannels256, InputGradTile::kChannels128, InputGradTile::kPixels4x64,
                             InputGradTile::kPixels8x32, InputGradTile::kPixels16x16, InputGradTile::kPixels8x16}) {
    if (!allowed_tile(tile, nchw, gpu.overrides)) continue;
    HopperInputGradPlan trial;
    size_input_grad(s, l, tile, trial);
    trial.stages = std::min(kGradStagesMost, kGradWeightsMost / (input_grad_shape(tile).channels * kBlockBytes));
    const auto bytes = [&] {
      return hopper_input_grad_shared_bytes(input_grad_shape(tile).channels, trial.windows_bytes, trial.zeros_bytes,
                                            trial.stages);
    };
    while (trial.stages > kHopperStagesLeast && bytes() > gpu.shared_per_block) --trial.stages;
    trial.shared_bytes = bytes();
    if (trial.shared_bytes > gpu.shared_per_block || trial.window_h[0] > kBoxMost || trial.window_w[1] > kBoxMost) continue;
    for (int choice = 0; choice < 4; ++choice) {  // of equals, the one that copies windows least often, and without clusters
      trial.together = choice < 2 ? 2 : 1, trial.cluster = 1 + choice % 2;
      if (clusters_side_by_side(trial.cluster, gpu) == 0 || !allowed(gpu.overrides.input_grad_cluster, trial.cluster) ||
          !allowed(gpu.overrides.input_grad_together, trial.together) || trial.together > trial.n_tiles) {
        continue;
      }
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
  const InputGradShape shape = input_grad_shape(h.tile);
  const double pixels = double(s.n * h.patches_h * h.patches_w) * shape.pixels();
  note(plan,
       {"hopper_input_grad dx", h.blocks, kHopperThreads, h.shared_bytes, 1,
        2 * pixels * h.n_tiles * shape.channels * 16 * all_steps(h)},
       input_grad_clocks(s, h, gpu), traffic, gpu);
}

}  // namespace gcn::cuda
