#include "plan.h"

#include <algorithm>

namespace gcn_kernels {
namespace fft {
namespace {

constexpr int64_t kScratchBytes = 800 << 10;  // of spectra and accumulators, out of 1 MB of L2
constexpr int64_t kWantedUnits = 16;
constexpr double kSplitAllowance = 1.05;  // of the cost without splits

// Cycles for each vector, measured on Zen 4. AVX-512 is run as two halves there, so that a vector of any width above
// 16 bytes costs about the same for each float.
struct Costs {
  double transform;  // for each sample, codelets' loads and stores included
  double move;       // for each sample loaded or stored through a tile
  double multiply;   // for each multiply-add
  double update;     // for each accumulator read and written
  double weight;     // for each broadcast float streamed from L3
};

Costs costs_of(Isa isa) {
  if (isa == Isa::kAvx512) return {11, 8, 1.08, 2.0, 0.25};
  if (isa == Isa::kAvx2) return {7, 5, 0.62, 1.0, 0.25};
  return {7, 5, 1.1, 1.0, 0.25};
}

// Scratch traffic beyond L2 slows the product down.
double overflow_factor(int64_t bytes) {
  return bytes <= kScratchBytes ? 1.0 : 1.0 + 0.5 * (double)(bytes - kScratchBytes) / kScratchBytes;
}

double cost(const Plan& plan, bool wgrad) {
  const Tiling t = tiling_of(plan, wgrad);
  const Costs c = costs_of(plan.isa);
  const double lane_blocks = (double)t.lane_tiles * plan.vectors * (wgrad ? 1 : plan.blocks);
  const double tiles = (double)t.lane_tiles * (wgrad ? 1 : plan.blocks);
  const double outputs = (double)plan.problem.o, reductions = (double)t.reductions;
  const double reloads = t.reduction_slices == plan.splits ? plan.output_parts : t.output_slices;
  const double samples = std::min<double>(plan.length, (double)plan.block + plan.taps - 1);
  const int64_t bytes = scratch_map(plan).total * lanes_of(plan.isa) * 4;
  double cycles = reloads * reductions * lane_blocks * (c.move * samples + c.transform * plan.length);
  cycles += t.planes * outputs * lane_blocks *
            (reductions * c.multiply + t.reduction_slices * c.update) * overflow_factor(bytes);
  cycles += t.planes * outputs * reductions * c.weight * tiles;
  cycles += outputs * plan.splits * lane_blocks * (1.5 * c.transform * plan.length + 2 * c.move * plan.block);
  if (wgrad)
    cycles += reductions * outputs / lanes_of(plan.isa) * (c.move * plan.block + 2.5 * c.transform * plan.length);
  return cycles + 2000.0 * plan.units;
}

void count_units(Plan& plan, bool wgrad) {
  const Tiling t = tiling_of(plan, wgrad);
  plan.units = t.lane_tiles * (wgrad ? 1 : plan.blocks) * plan.output_parts * plan.splits;
}

// Slices of nearly equal size, at most `most`, in steps of `step`.
int32_t even_slice(int64_t total, int64_t most, int64_t step) {
  const int64_t slices = divide_up(total, most);
  return (int32_t)std::min(total, divide_up(divide_up(total, slices), step) * step);
}

void choose_parts(Plan& plan, bool wgrad) {
  const Tiling t = tiling_of(plan, wgrad);
  count_units(plan, wgrad);
  plan.cycles = cost(plan, wgrad);
  const double allowed = plan.cycles * kSplitAllowance;
  Plan best = plan;
  for (int64_t parts = 1; parts <= t.output_slices && parts <= kWantedUnits; parts *= 2) {
    for (int64_t splits = 1; splits <= t.reduction_slices && splits <= kWantedUnits; splits *= 2) {
      Plan trial = plan;
      trial.output_parts = (int32_t)parts;
      trial.splits = (int32_t)splits;
      count_units(trial, wgrad);
      trial.cycles = cost(trial, wgrad);
      const int64_t now = std::min(trial.units, kWantedUnits), before = std::min(best.units, kWantedUnits);
      if (trial.cycles <= allowed && (now > before || (now == before && trial.cycles < best.cycles))) best = trial;
    }
  }
  plan = best;
}

Plan make_plan(const Problem& problem, bool wgrad) {
  Plan base = {};
  base.problem = problem;
  base.isa = active_isa();
  if (!isa_available(base.isa)) return base;
  const int lanes = lanes_of(base.isa);
  const int64_t line = problem.axis == Axis::kH ? problem.h : problem.w;
  const int64_t across = problem.axis == Axis::kH ? problem.w : problem.h;
  base.taps = 2 * std::min(problem.k / 2, line - 1) + 1;
  base.merge_images = 4 * problem.n * divide_up(across, lanes) > 5 * divide_up(problem.n * across, lanes);
  base.output_parts = base.splits = 1;
  Plan best = base;
  double least = 0;
  for (int length : kLengths) {
    Plan plan = base;
    plan.possible = true;
    plan.length = length;
    if (length >= line + plan.taps / 2) {
      plan.block = line;
    } else if (length >= plan.taps) {
      plan.block = divide_up(line, divide_up(line, length - plan.taps + 1));
    } else {
      continue;
    }
    plan.blocks = divide_up(line, plan.block);
    const int64_t reductions = wgrad ? problem.n * across * plan.blocks : problem.c;
    const int64_t lane_vectors = wgrad ? divide_up(problem.c, lanes)
                                 : plan.merge_images ? divide_up(problem.n * across, lanes)
                                                     : problem.n * divide_up(across, lanes);
    for (int vectors : {1, 2, 4}) {
      if (vectors > 1 && vectors / 2 >= lane_vectors) continue;
      plan.vectors = vectors;
      for (int most : {16, 32, 64, 128}) {
        if (most > 16 && problem.o <= most / 2) continue;
        plan.outputs = even_slice(problem.o, problem.o <= most + most / 2 ? problem.o : most, 4);
        const int64_t left = kScratchBytes / (lanes * 4 * vectors * length) - 3 * plan.outputs / 2;
        const int64_t most_reductions = std::min<int64_t>(128, std::max<int64_t>(16, left / 16 * 16));
        // Enough slices to split, as long as they are not so short that accumulators are updated all the time.
        const int64_t for_splits = std::max<int64_t>(32, divide_up(divide_up(reductions, kWantedUnits), 16) * 16);
        plan.reduction = even_slice(reductions, std::min(most_reductions, for_splits), reductions > 16 ? 16 : 1);
        Plan trial = plan;
        choose_parts(trial, wgrad);
        if (least == 0 || trial.cycles < least) {
          least = trial.cycles;
          best = trial;
        }
      }
    }
    if (plan.blocks == 1) break;  // longer transforms only do more
  }
  if (!best.possible) return best;
  const Tiling t = tiling_of(best, wgrad);
  const int64_t vector_bytes = lanes * 4;
  if (wgrad) {
    best.workspace_bytes = t.planes * t.reductions * problem.o * 4;
    best.workspace_bytes = divide_up(best.workspace_bytes, 64) * 64;
    if (best.splits > 1) best.workspace_bytes += best.splits * t.lane_vectors * problem.o * best.taps * vector_bytes;
  } else {
    best.spectra_bytes = t.planes * problem.c * problem.o * 4;
    if (best.splits > 1)
      best.workspace_bytes = best.splits * t.lane_vectors * best.blocks * problem.o * best.block * vector_bytes;
  }
  return best;
}

}  // namespace

Tiling tiling_of(const Plan& plan, bool wgrad) {
  const Problem& p = plan.problem;
  const int lanes = lanes_of(plan.isa);
  Tiling t;
  t.lines = p.axis == Axis::kH ? p.h : p.w;
  t.across = p.axis == Axis::kH ? p.w : p.h;
  t.reductions = wgrad ? p.n * t.across * plan.blocks : p.c;
  t.lane_vectors = wgrad ? divide_up(p.c, lanes)
                   : plan.merge_images ? divide_up(p.n * t.across, lanes)
                                       : p.n * divide_up(t.across, lanes);
  t.lane_tiles = divide_up(t.lane_vectors, plan.vectors);
  // With wgrad the last block of every line, where it is shorter, has slices of its own.
  const int64_t last = wgrad && t.lines % plan.block ? p.n * t.across : 0;
  t.reduction_slices = divide_up(t.reductions - last, plan.reduction) + divide_up(last, plan.reduction);
  t.output_slices = divide_up(p.o, plan.outputs);
  t.points = plan.length / 2 - 1;
  t.planes = plan.length + t.points;
  t.first_tap = p.k / 2 - plan.taps / 2;
  return t;
}

ScratchMap scratch_map(const Plan& plan) {
  // Strides of odd numbers of vectors spread the planes over all sets of the caches.
  ScratchMap m;
  m.tile_stride = plan.length | 1;
  m.spectrum_stride = (int64_t)plan.reduction * plan.vectors | 1;
  m.product_stride = (int64_t)plan.outputs * plan.vectors | 1;
  const int64_t tile = lanes_of(plan.isa) * m.tile_stride;
  m.second_tile = tile;
  m.transform = m.second_tile + tile;
  m.spectra = m.transform + plan.length + 2 * 9;
  m.product = m.spectra + plan.length * m.spectrum_stride;
  m.total = m.product + (plan.length * 3 / 2 - 1) * m.product_stride;
  return m;
}

Plan plan_conv(const Problem& problem) { return make_plan(problem, false); }
Plan plan_wgrad(const Problem& problem) { return make_plan(problem, true); }

}  // namespace fft
}  // namespace gcn_kernels
