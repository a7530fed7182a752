// wgrad: the gradient with respect to the weights.
//
// Lanes are channels of in, reductions the lines of all images (the blocks of long lines count as lines), and
// the broadcast operand is made of dout. The workspace holds its spectra, planes x reductions x outputs
// floats, then the partial sums of splits, [split][vector of lanes][output][tap] vectors. Phases: spectra of
// dout, sums, sums of splits.
#pragma once

#include "unit.h"

namespace gcn::cpu {
namespace fft {
namespace GCN_FFT_ISA {

static Lanes channel_lanes(const Work& work, int64_t v, int64_t stride_c) {
  Lanes lanes = {};
  lanes.count = (int)larger(0, smaller(kLanes, work.plan.problem.c - v * kLanes));
  for (int r = 0; r < lanes.count; r++) lanes.offset[r] = (v * kLanes + r) * stride_c;
  lanes.find_contiguous();
  return lanes;
}

struct WgradTask {
  Work work;
  const WgradCall* call;
};

// Reduction index r: line q of image n, block b; n and q run fastest.
struct LineBlock {
  int64_t b, n, q;
};
GCN_INLINE LineBlock line_block(const Work& work, int64_t r) {
  const int64_t q = work.tiling.across, n = work.plan.problem.n;
  return {r / (n * q), r / q % n, r % q};
}

static void wgrad_prepare_unit(const WgradTask& task, int64_t unit) {
  if (task.call->not_finite->load(std::memory_order_relaxed)) return;
  const Work& work = task.work;
  const ConstImage& dout = task.call->dout;
  const Strides strides = strides_of(dout, work.plan.problem.axis);
  const Range outputs = work.output_slice(unit / work.tiling.reduction_slices);
  const Range reductions = work.reduction_slice(unit % work.tiling.reduction_slices);
  broadcast_spectra(
      work, dout, reductions, outputs,
      [&](int64_t r) {
        const LineBlock at = line_block(work, r);
        return at.n * dout.stride_n + at.q * strides.across + at.b * work.plan.block * strides.along;
      },
      dout.stride_c, work.block(line_block(work, reductions.begin).b).size(), strides.along, Scratch(work.map),
      (float*)task.call->workspace + work.broadcast_offset(outputs, reductions));
}

static void finish_wgrad_tile(const WgradTask& task, int64_t v, Range outputs, const Scratch& scratch) {
  const Work& work = task.work;
  const FilterGrad& grad = task.call->grad;
  const int64_t taps = work.plan.taps, first = work.tiling.first_tap, k = work.plan.problem.k;
  if (!tile_finite(scratch.tile, work.map.tile_stride, outputs.size(), taps)) return task.call->not_finite->store(true);
  const Lanes lanes = channel_lanes(work, v, grad.stride_c);
  store_tile({grad.data, DType::kFloat32, 0, 0, 0, 0}, outputs.begin * grad.stride_o + first * grad.stride_t, lanes,
             {outputs.size(), grad.stride_o, taps, grad.stride_t}, scratch.tile, work.map.tile_stride);
  for (int64_t o = outputs.begin; o < outputs.end && taps < k; o++)  // taps that never meet the image
    for (int r = 0; r < lanes.count; r++)
      for (int64_t t = 0; t < k; t++)
        if (t < first || t >= first + taps) grad.data[o * grad.stride_o + lanes.offset[r] + t * grad.stride_t] = 0.f;
}

GCN_INLINE Vec* wgrad_partial(const WgradTask& task, int64_t split, int64_t v, int64_t output) {
  const Work& work = task.work;
  const int64_t spectra = divide_up(work.tiling.planes * work.tiling.reductions * work.plan.problem.o * 4, 64) * 64;
  const int64_t row = (split * work.tiling.lane_vectors + v) * work.plan.problem.o + output;
  return (Vec*)((char*)task.call->workspace + spectra) + row * work.plan.taps;
}

static void wgrad_unit(const WgradTask& task, int64_t unit) {
  if (task.call->not_finite->load(std::memory_order_relaxed)) return;
  const Work& work = task.work;
  const Plan& plan = work.plan;
  const Tiling& t = work.tiling;
  const ConstImage& in = task.call->in;
  const Scratch scratch(work.map);
  const Strides strides = strides_of(in, plan.problem.axis);

  const int64_t tile = unit % t.lane_tiles, rest = unit / t.lane_tiles;
  const int64_t part = rest % plan.output_parts, split = rest / plan.output_parts;
  const Range slices = part_of(t.reduction_slices, split, plan.splits);
  const Range output_slices = part_of(t.output_slices, part, plan.output_parts);

  Lanes lanes[kMaxVectors];
  for (int p = 0; p < plan.vectors; p++) lanes[p] = channel_lanes(work, tile * plan.vectors + p, in.stride_c);
  // Reductions r, r + 1, ... before end, as far as they are lines of one image.
  const auto rows = [&](int64_t r, int64_t end) {
    const LineBlock at = line_block(work, r);
    return Rows{
        &in,  at.n * in.stride_n + at.q * strides.across, strides.along, strides.across, smaller(end - r, t.across - at.q), at.b,
        lanes};
  };

  run_tile(
      work, (const float*)task.call->workspace, slices, output_slices, lanes, scratch,
      [&](int64_t i, bool fetched) {
        const Range reductions = work.reduction_slice(i);
        for (int64_t r = reductions.begin; r < reductions.end;) {
          const Rows lines = rows(r, reductions.end);
          forward_rows(work, lines, r - reductions.begin, fetched && r == reductions.begin, scratch);
          r += lines.count;
        }
      },
      [&](int64_t i) {
        const Range reductions = work.reduction_slice(i);
        return rows(reductions.begin, reductions.end).prefetcher(work);
      },
      [&](int p, Range outputs) {
        const int64_t v = tile * plan.vectors + p;
        if (plan.splits > 1)
          store_partial(scratch.tile, work.map.tile_stride, outputs.size(), plan.taps,
                        wgrad_partial(task, split, v, outputs.begin));
        else
          finish_wgrad_tile(task, v, outputs, scratch);
      });
}

static void wgrad_reduce_unit(const WgradTask& task, int64_t unit) {
  if (task.call->not_finite->load(std::memory_order_relaxed)) return;
  const Work& work = task.work;
  const Plan& plan = work.plan;
  const Scratch scratch(work.map);
  const int64_t groups = divide_up(plan.problem.o, kLanes), o = unit % groups * kLanes, v = unit / groups;
  const Range group = {o, smaller(plan.problem.o, o + kLanes)};
  add_partials(wgrad_partial(task, 0, v, o), work.tiling.lane_vectors * plan.problem.o * plan.taps, plan.splits, group.size(),
               plan.taps, scratch.tile, work.map.tile_stride);
  finish_wgrad_tile(task, v, group, scratch);
}

static void wgrad(const WgradCall* calls, int count, const Parallel& parallel) {
  for (int first = 0; first < count; first += kMaxCalls) {
    const int n = (int)smaller(kMaxCalls, count - first);
    WgradTask tasks[kMaxCalls];
    for (int i = 0; i < n; i++) tasks[i] = {Work(*calls[first + i].plan, true), &calls[first + i]};
    run_phase(
        tasks, n, [](const WgradTask& task) { return task.work.tiling.output_slices * task.work.tiling.reduction_slices; },
        wgrad_prepare_unit, parallel);
    run_phase(tasks, n, [](const WgradTask& task) { return task.work.plan.units; }, wgrad_unit, parallel);
    run_phase(
        tasks, n,
        [](const WgradTask& task) {
          const Plan& plan = task.work.plan;
          return plan.splits == 1 ? 0 : task.work.tiling.lane_vectors * divide_up(plan.problem.o, kLanes);
        },
        wgrad_reduce_unit, parallel);
  }
}

}  // namespace GCN_FFT_ISA
}  // namespace fft
}  // namespace gcn::cpu
