// prepare and conv: spectra of the weights, then images through them.
//
// Lanes are lines of the image, reductions its channels, and a unit has one block of its lines. With splits,
// units leave their sums in the workspace, [split][vector of lanes][block][output][sample] vectors, and a
// second phase adds them.
#pragma once

#include "unit.h"

namespace gcn::cpu {
namespace fft {
namespace GCN_FFT_ISA {

// The lines of vector v, in an image with these strides; none for v beyond the last vector.
static Lanes line_lanes(const Work& work, int64_t v, int64_t stride_n, int64_t stride_across) {
  const int64_t q = work.tiling.across, n = work.plan.problem.n;
  Lanes lanes = {};
  int64_t image, line, count;
  if (work.plan.merge_images) {
    image = v * kLanes / q;
    line = v * kLanes % q;
    count = n * q - v * kLanes;
  } else {
    const int64_t per_image = divide_up(q, kLanes);
    image = v / per_image;
    line = v % per_image * kLanes;
    count = image < n ? q - line : 0;
  }
  lanes.count = (int)larger(0, smaller(kLanes, count));
  for (int r = 0; r < lanes.count; r++) {
    lanes.offset[r] = image * stride_n + line * stride_across;
    if (++line == q) line = 0, image++;
  }
  lanes.find_contiguous();
  return lanes;
}

struct PrepareTask {
  Work work;
  Filter filter;
  float* spectra;
};

static void prepare_unit(void* arg, int64_t unit) {
  const PrepareTask& task = *(const PrepareTask*)arg;
  const Work& work = task.work;
  const Filter& f = task.filter;
  const Range outputs = work.output_slice(unit / work.tiling.reduction_slices);
  const Range reductions = work.reduction_slice(unit % work.tiling.reduction_slices);
  const ConstImage taps = {f.data + work.tiling.first_tap * f.stride_t, DType::kFloat32, 0, 0, 0, 0};
  broadcast_spectra(
      work, taps, reductions, outputs, [&](int64_t c) { return c * f.stride_c; }, f.stride_o, work.plan.taps, f.stride_t,
      Scratch(work.map), task.spectra + work.broadcast_offset(outputs, reductions));
}

static void prepare(const Plan& plan, const Filter& filter, float* spectra, const Parallel& parallel) {
  PrepareTask task = {Work(plan, false), filter, spectra};
  const Tiling& t = task.work.tiling;
  parallel.run(parallel.context, t.output_slices * t.reduction_slices, prepare_unit, &task);
}

// ---------------------------------------------------------------- finish

struct ConvTask {
  Work work;
  const ConvCall* call;
};

// A tile of finished sums, [output][sample], goes to the image.
static void finish_conv_tile(const ConvTask& task, int64_t v, int64_t b, Range outputs, const Scratch& scratch) {
  const Work& work = task.work;
  const ConvCall& call = *task.call;
  const Axis axis = work.plan.problem.axis;
  const Range block = work.block(b);
  const int64_t stride = work.map.tile_stride;
  if (!tile_finite(scratch.tile, stride, outputs.size(), block.size())) return call.not_finite->store(true);
  if (call.addend) {
    const ConstImage& addend = *call.addend;
    const Strides strides = strides_of(addend, axis);
    load_tile(addend, outputs.begin * addend.stride_c + block.begin * strides.along,
              line_lanes(work, v, addend.stride_n, strides.across),
              {outputs.size(), addend.stride_c, block.size(), strides.along}, scratch.second_tile, stride);
  }
  if (call.bias || call.addend) {
    for (int64_t j = 0; j < outputs.size(); j++) {
      const float bias = call.bias ? call.bias[outputs.begin + j] : 0.f;
      Vec* row = scratch.tile + j * stride;
      const Vec* add = scratch.second_tile + j * stride;
      if (call.addend)
        for (int64_t i = 0; i < block.size(); i++) row[i] += bias + add[i];
      else
        for (int64_t i = 0; i < block.size(); i++) row[i] += bias;
    }
  }
  const Strides strides = strides_of(call.out, axis);
  store_tile(call.out, outputs.begin * call.out.stride_c + block.begin * strides.along,
             line_lanes(work, v, call.out.stride_n, strides.across),
             {outputs.size(), call.out.stride_c, block.size(), strides.along}, scratch.tile, stride);
}

// ---------------------------------------------------------------- units

GCN_INLINE Vec* conv_partial(const ConvTask& task, int64_t split, int64_t v, int64_t b, int64_t output) {
  const Plan& plan = task.work.plan;
  const int64_t row = ((split * task.work.tiling.lane_vectors + v) * plan.blocks + b) * plan.problem.o + output;
  return (Vec*)task.call->workspace + row * plan.block;
}

static void conv_unit(const ConvTask& task, int64_t unit) {
  const Work& work = task.work;
  const Plan& plan = work.plan;
  const Tiling& t = work.tiling;
  const ConvCall& call = *task.call;
  if (call.not_finite->load(std::memory_order_relaxed)) return;
  const Scratch scratch(work.map);
  const Strides strides = strides_of(call.in, plan.problem.axis);

  const int64_t b = unit % plan.blocks, rest = unit / plan.blocks;
  const int64_t tile = rest % t.lane_tiles, rest2 = rest / t.lane_tiles;
  const int64_t part = rest2 % plan.output_parts, split = rest2 / plan.output_parts;
  const Range slices = part_of(t.reduction_slices, split, plan.splits);
  const Range output_slices = part_of(t.output_slices, part, plan.output_parts);

  Lanes lanes[kMaxVectors];
  for (int p = 0; p < plan.vectors; p++) lanes[p] = line_lanes(work, tile * plan.vectors + p, call.in.stride_n, strides.across);
  const auto rows = [&](int64_t i) {
    const Range channels = work.reduction_slice(i);
    return Rows{&call.in, channels.begin * call.in.stride_c, strides.along, call.in.stride_c, channels.size(), b, lanes};
  };

  run_tile(
      work, call.spectra, slices, output_slices, lanes, scratch,
      [&](int64_t i, bool fetched) { forward_rows(work, rows(i), 0, fetched, scratch); },
      [&](int64_t i) { return rows(i).prefetcher(work); },
      [&](int p, Range outputs) {
        const int64_t v = tile * plan.vectors + p;
        if (plan.splits > 1)
          store_partial(scratch.tile, work.map.tile_stride, outputs.size(), plan.block,
                        conv_partial(task, split, v, b, outputs.begin));
        else
          finish_conv_tile(task, v, b, outputs, scratch);
      });
}

static void conv_reduce_unit(const ConvTask& task, int64_t unit) {
  if (task.call->not_finite->load(std::memory_order_relaxed)) return;
  const Work& work = task.work;
  const Plan& plan = work.plan;
  const Scratch scratch(work.map);
  const int64_t groups = divide_up(plan.problem.o, kLanes);
  const int64_t o = unit % groups * kLanes, b = unit / groups % plan.blocks, v = unit / groups / plan.blocks;
  const Range group = {o, smaller(plan.problem.o, o + kLanes)};
  const int64_t split_size = work.tiling.lane_vectors * plan.blocks * plan.problem.o * plan.block;
  add_partials(conv_partial(task, 0, v, b, o), split_size, plan.splits, group.size(), plan.block, scratch.tile,
               work.map.tile_stride);
  finish_conv_tile(task, v, b, group, scratch);
}

static void conv(const ConvCall* calls, int count, const Parallel& parallel) {
  for (int first = 0; first < count; first += kMaxCalls) {
    const int n = (int)smaller(kMaxCalls, count - first);
    ConvTask tasks[kMaxCalls];
    for (int i = 0; i < n; i++) tasks[i] = {Work(*calls[first + i].plan, false), &calls[first + i]};
    run_phase(tasks, n, [](const ConvTask& task) { return task.work.plan.units; }, conv_unit, parallel);
    run_phase(
        tasks, n,
        [](const ConvTask& task) {
          const Plan& plan = task.work.plan;
          return plan.splits == 1 ? 0 : task.work.tiling.lane_vectors * plan.blocks * divide_up(plan.problem.o, kLanes);
        },
        conv_reduce_unit, parallel);
  }
}

}  // namespace GCN_FFT_ISA
}  // namespace fft
}  // namespace gcn::cpu
