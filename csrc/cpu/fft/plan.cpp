#include "plan.h"

#include <algorithm>
#include <limits>

namespace gcn::cpu {
namespace fft {
namespace {

constexpr int64_t kScratchBytes = 800 << 10;  // of spectra and accumulators, out of 1 MB of L2
constexpr int64_t kWantedUnits = 16;
constexpr double kUnitsAllowance = 1.06;  // of the least cost, for having kWantedUnits
constexpr int64_t kFewResults = 1024;

// Nanoseconds for each vector, measured on one core of a Zen 4 at 3.7 GHz.
struct Costs {
  double transform;  // for each sample
  double load;       // for each sample, through a tile
  double store;
  double multiply;   // for each multiply-add
  double update;     // for each accumulator read and written
  double broadcast;  // for each float streamed from L3
  double page;       // for each sample of a line whose samples lie a page or more apart
};

Costs costs_of(Isa isa) {
  if (isa == Isa::kAvx512) return {1.9, 2.5, 6.0, 0.265, 2.0, 0.03, 8.0};
  if (isa == Isa::kAvx2) return {1.3, 2.5, 4.0, 0.20, 1.2, 0.03, 8.0};
  return {1.3, 2.3, 3.0, 0.235, 0.8, 0.03, 8.0};
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
  double time = reloads * reductions * lane_blocks * (c.load * samples + c.transform * plan.length);
  if (wgrad && plan.problem.axis == Axis::kH) time += reloads * reductions * tiles * samples * c.page;
  time += t.planes * outputs * lane_blocks * (reductions * c.multiply + t.reduction_slices * c.update) * overflow_factor(bytes);
  time += t.planes * outputs * reductions * c.broadcast * tiles;
  time += outputs * plan.splits * lane_blocks * 1.3 * c.transform * plan.length;
  const double stored = (double)(wgrad ? plan.taps : plan.block);
  time += outputs * lane_blocks * stored * (c.store + (plan.splits > 1 ? plan.splits * c.load : 0));
  if (wgrad) time += reductions * outputs / lanes_of(plan.isa) * (c.load * plan.block + 2.5 * c.transform * plan.length);
  return time + 500.0 * plan.units;
}

// Slices of nearly equal size, at most `most`, in steps of `step`.
int32_t even_slice(int64_t total, int64_t most, int64_t step) {
  const int64_t slices = divide_up(total, most);
  return (int32_t)std::min(total, divide_up(divide_up(total, slices), step) * step);
}

// The worst error of few results may be far above their typical one, which their largest value does not make up for. Splits
// shorten the sums, and where there is so little to transform back they cost nothing.
bool few_results(const Problem& p, int64_t taps, bool wgrad) {
  return (wgrad ? p.c * taps : p.n * p.h * p.w) * p.o <= kFewResults;
}

// All ways to cut the problem. Visit: void(const Plan&)
template <class Visit>
void each_plan(const Plan& base, bool wgrad, const Visit& visit) {
  const Problem& problem = base.problem;
  const int lanes = lanes_of(base.isa);
  const int64_t line = problem.axis == Axis::kH ? problem.h : problem.w;
  for (int length : kLengths) {
    Plan plan = base;
    plan.possible = true;
    plan.length = length;
    plan.reduction = plan.outputs = plan.vectors = 1;
    if (length >= line + plan.taps / 2) {
      plan.block = line;
    } else if (length >= plan.taps) {
      plan.block = divide_up(line, divide_up(line, length - plan.taps + 1));
    } else {
      continue;
    }
    plan.blocks = divide_up(line, plan.block);
    const Tiling whole = tiling_of(plan, wgrad);
    for (int vectors : {1, 2, 4}) {
      if (vectors > 1 && vectors / 2 >= whole.lane_vectors) continue;
      plan.vectors = vectors;
      for (int most : {16, 32, 64, 128}) {
        const int32_t outputs = even_slice(problem.o, problem.o <= most + most / 2 ? problem.o : most, 4);
        if (most > 16 && outputs <= plan.outputs) continue;
        plan.outputs = outputs;
        const int64_t left = kScratchBytes / (lanes * 4 * vectors * length) - 3 * outputs / 2;
        const int64_t fitting = std::min<int64_t>(128, std::max<int64_t>(16, left / 16 * 16));
        // Enough slices to split, but not so short that accumulators are updated all the time.
        const int64_t splitting = std::max<int64_t>(32, divide_up(divide_up(whole.reductions, kWantedUnits), 16) * 16);
        plan.reduction = even_slice(whole.reductions, std::min(fitting, splitting), whole.reductions > 16 ? 16 : 1);
        const Tiling t = tiling_of(plan, wgrad);
        const int64_t most_splits = std::min(t.reduction_slices, kWantedUnits);
        int64_t least_splits = 1;
        while (few_results(problem, plan.taps, wgrad) && 2 * least_splits <= most_splits) least_splits *= 2;
        for (int64_t parts = 1; parts <= std::min(t.output_slices, kWantedUnits); parts *= 2) {
          for (int64_t splits = least_splits; splits <= most_splits; splits *= 2) {
            plan.output_parts = (int32_t)parts;
            plan.splits = (int32_t)splits;
            plan.units = t.lane_tiles * (wgrad ? 1 : plan.blocks) * parts * splits;
            plan.nanoseconds = cost(plan, wgrad);
            visit(plan);
          }
        }
      }
    }
    if (plan.blocks == 1) return;  // longer transforms only do more
  }
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
  double least = std::numeric_limits<double>::infinity();
  each_plan(base, wgrad, [&](const Plan& plan) { least = std::min(least, plan.nanoseconds); });
  Plan best = base;
  each_plan(base, wgrad, [&](const Plan& plan) {
    if (plan.nanoseconds > kUnitsAllowance * least) return;
    const int64_t units = std::min(plan.units, kWantedUnits), before = std::min(best.units, kWantedUnits);
    if (units > before || (units == before && plan.nanoseconds < best.nanoseconds)) best = plan;
  });
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
  t.lane_vectors = wgrad               ? divide_up(p.c, lanes)
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
}  // namespace gcn::cpu
