// The tiling: units of work of conv and wgrad, from images to images, for one instruction set. plan.h
// explains the terms. Steps of a unit, for each of its output slices:
//
//   for each reduction slice:   forward    load a tile, transform, spectra of the slice into scratch
//                               multiply   planes of spectra x planes of the broadcast operand, into the
//                               accumulators
//   for each group of outputs:  inverse    recombine and transform back into a tile
//                               finish     check for non-finite values, bias, addend, store
//
// Positions in a transform: a block with outputs o0 .. o0 + B - 1 holds sample i at i - o0 + taps/2 and
// output o at o - o0. With W the conjugate spectrum of the taps at 0 .. taps - 1, the cyclic correlation X W
// is the conv. With dout's sample o at o - o0 and its conjugate spectrum, X D is dw with tap t at position t,
// for every block alike.
//
// The broadcast operand lies in memory as [output slice][reduction slice][plane][reduction][output].
#pragma once

#include "backend.h"
#include "plan.h"
#include "product.h"
#include "simd.h"
#include "tile_io.h"
#include "transform.h"

namespace gcn_kernels {
namespace fft {
namespace GCN_FFT_ISA {

constexpr int kMaxVectors = 4;
constexpr int kMaxCalls = 8;

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

GCN_INLINE Range part_of(int64_t total, int64_t part, int64_t parts) {
  return {total * part / parts, total * (part + 1) / parts};
}

// A plan with all that follows from it.
struct Work {
  Plan plan;
  Tiling tiling;
  ScratchMap map;
  const Transform* transform;
  int64_t shorter;  // reductions that belong to the last block, where that is shorter (wgrad)

  Work() {}
  Work(const Plan& p, bool wgrad)
      : plan(p), tiling(tiling_of(p, wgrad)), map(scratch_map(p)), transform(&find_transform(p.length)) {
    shorter = wgrad && tiling.lines % p.block ? p.problem.n * tiling.across : 0;
  }

  int64_t halo() const { return plan.taps / 2; }

  Range block(int64_t b) const { return {b * plan.block, smaller(tiling.lines, (b + 1) * plan.block)}; }
  Range output_slice(int64_t i) const {
    return {i * plan.outputs, smaller(plan.problem.o, (i + 1) * plan.outputs)};
  }
  Range reduction_slice(int64_t i) const {
    const int64_t whole = tiling.reductions - shorter, whole_slices = divide_up(whole, plan.reduction);
    if (i < whole_slices) return {i * plan.reduction, smaller(whole, (i + 1) * plan.reduction)};
    const int64_t begin = whole + (i - whole_slices) * plan.reduction;
    return {begin, smaller(tiling.reductions, begin + plan.reduction)};
  }
  int64_t broadcast_offset(Range outputs, Range reductions) const {
    return tiling.planes * (outputs.begin * tiling.reductions + reductions.begin * outputs.size());
  }
};

// The axis of the kernel and the other one, in elements.
struct Strides {
  int64_t along, across;
};
template <class AnyImage>
GCN_INLINE Strides strides_of(const AnyImage& image, Axis axis) {
  return axis == Axis::kH ? Strides{image.stride_h, image.stride_w} : Strides{image.stride_w, image.stride_h};
}

struct Scratch {
  Vec *tile, *second_tile, *transform, *spectra, *product;
  explicit Scratch(const ScratchMap& map) {
    tile = (Vec*)thread_scratch(map.total * (int64_t)sizeof(Vec));
    second_tile = tile + map.second_tile;
    transform = tile + map.transform;
    spectra = tile + map.spectra;
    product = tile + map.product;
  }
};

GCN_INLINE void clear(Vec* begin, Vec* end) {
  for (; begin < end; begin++) *begin = Vec{};
}

// ---------------------------------------------------------------- lanes

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

static Lanes channel_lanes(const Work& work, int64_t v, int64_t stride_c) {
  Lanes lanes = {};
  lanes.count = (int)larger(0, smaller(kLanes, work.plan.problem.c - v * kLanes));
  for (int r = 0; r < lanes.count; r++) lanes.offset[r] = (v * kLanes + r) * stride_c;
  lanes.find_contiguous();
  return lanes;
}

// ---------------------------------------------------------------- forward

// The samples that a block reads.
GCN_INLINE Range samples_of(const Work& work, int64_t block) {
  const Range outputs = work.block(block);
  return {larger(0, outputs.begin - work.halo()), smaller(work.tiling.lines, outputs.end + work.halo())};
}

// The rows of a reduction slice: `count` of them, from base on, for all vectors of the unit.
struct Rows {
  const ConstImage* image;
  int64_t base, stride_along, row_stride, count, block;
  const Lanes* lanes;

  Prefetcher prefetcher(const Work& work) const {
    const Range samples = samples_of(work, block);
    return {*image, base + samples.begin * stride_along, lanes, work.plan.vectors,
            TileShape{count, row_stride, samples.size(), stride_along}};
  }
};

// Loads rows, zeros around their samples, and transforms them into the spectra's rows first, first + 1, ...
// While a group of rows is transformed, the next one is fetched; unless `fetched`, which says that all of
// them were.
static void forward_rows(const Work& work, const Rows& rows, int64_t first, bool fetched,
                         const Scratch& scratch) {
  const Range samples = samples_of(work, rows.block);
  const int64_t lead = samples.begin - (rows.block * work.plan.block - work.halo()),
                stride = work.map.tile_stride;
  const int vectors = work.plan.vectors;
  Prefetcher ahead;
  if (!fetched) ahead = rows.prefetcher(work);
  ahead.skip_to(kLanes);
  const int64_t lines_per_row = divide_up(ahead.lines(), larger(1, rows.count - kLanes) * vectors);
  for (int64_t row = 0; row < rows.count; row += kLanes) {
    const int64_t group = smaller(kLanes, rows.count - row);
    for (int p = 0; p < vectors; p++) {
      load_tile(*rows.image, rows.base + row * rows.row_stride + samples.begin * rows.stride_along,
                rows.lanes[p], {group, rows.row_stride, samples.size(), rows.stride_along},
                scratch.tile + lead, stride);
      for (int64_t j = 0; j < group; j++) {
        Vec* x = scratch.tile + j * stride;
        clear(x, x + lead);
        clear(x + lead + samples.size(), x + work.plan.length);
        ahead.fetch(lines_per_row);
        work.transform->forward(x, scratch.spectra + (first + row + j) * vectors + p,
                                work.map.spectrum_stride, scratch.transform);
      }
    }
  }
}

// ---------------------------------------------------------------- multiply

// Meanwhile fetches the image's rows of the next slice.
static void multiply(const Work& work, const Scratch& scratch, const float* broadcast, int64_t reductions,
                     int64_t outputs, bool first, Prefetcher ahead) {
  const int64_t plane_size = reductions * outputs, stride = work.map.spectrum_stride;
  const int64_t points = work.tiling.points, planes = work.tiling.planes;
  PlaneProduct in;
  in.reductions = (int)reductions;
  in.outputs = (int)outputs;
  in.first = first;
  const int64_t lines_per_plane = divide_up(ahead.lines(), planes);
  for (int64_t plane = 0; plane < planes; plane++) {
    ahead.fetch(lines_per_plane);
    const int64_t point = plane / 3, part = plane % 3;
    const bool real = plane >= 3 * points, sum = !real && part == 2;
    in.s = scratch.spectra + (real ? plane - points : 2 * point + (sum ? 1 : part)) * stride;
    in.sum_back = sum ? stride : 0;
    in.next_s = in.s + (plane + 1 < planes ? (!real && part == 1 ? 2 : 1) * stride : 0);
    in.b = broadcast + plane * plane_size;
    in.next_b = in.b + (plane + 1 < planes ? plane_size : 0);
    in.acc = scratch.product + plane * work.map.product_stride;
    multiply_plane(work.plan.vectors, in);
  }
}

// ---------------------------------------------------------------- broadcast operand

// The conjugate spectra, over length, of the lines of a slice: output o of reduction r begins at
// reduction_offset(r) + o * output_stride. Lanes are neighbours in the operand's planes, [reduction][output].
template <class ReductionOffset>
static void broadcast_spectra(const Work& work, const ConstImage& image, Range reductions, Range outputs,
                              const ReductionOffset& reduction_offset, int64_t output_stride, int64_t samples,
                              int64_t sample_stride, const Scratch& scratch, float* out) {
  const int64_t points = work.tiling.points, length = work.plan.length;
  const int64_t count = reductions.size() * outputs.size();
  const float scale = 1.0f / (float)length;
  const Vec* s = scratch.spectra;
  int64_t r = reductions.begin, o = outputs.begin, offset = reduction_offset(r);
  clear(scratch.tile + samples, scratch.tile + length);
  for (int64_t i = 0; i < count; i += kLanes, out += kLanes) {
    Lanes lanes;
    lanes.count = (int)smaller(kLanes, count - i);
    for (int lane = 0; lane < lanes.count; lane++) {
      lanes.offset[lane] = offset + o * output_stride;
      if (++o == outputs.end && ++r < reductions.end) {
        o = outputs.begin;
        offset = reduction_offset(r);
      }
    }
    lanes.find_contiguous();
    load_tile(image, 0, lanes, {1, 0, samples, sample_stride}, scratch.tile, 0);
    work.transform->forward(scratch.tile, scratch.spectra, 1, scratch.transform);
    for (int64_t p = 0; p < points; p++) {
      const Vec re = s[2 * p] * scale, im = s[2 * p + 1] * scale;
      store_n(out + 3 * p * count, -(im + re), lanes.count);
      store_n(out + (3 * p + 1) * count, re - im, lanes.count);
      store_n(out + (3 * p + 2) * count, re, lanes.count);
    }
    for (int e = 0; e < 2; e++) store_n(out + (3 * points + e) * count, s[2 * points + e] * scale, lanes.count);
  }
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
      work, taps, reductions, outputs, [&](int64_t c) { return c * f.stride_c; }, f.stride_o, work.plan.taps,
      f.stride_t, Scratch(work.map), task.spectra + work.broadcast_offset(outputs, reductions));
}

static void prepare(const Plan& plan, const Filter& filter, float* spectra, const Parallel& parallel) {
  PrepareTask task = {Work(plan, false), filter, spectra};
  const Tiling& t = task.work.tiling;
  parallel.run(parallel.context, t.output_slices * t.reduction_slices, prepare_unit, &task);
}

// ---------------------------------------------------------------- finish

static bool tile_finite(const Vec* tile, int64_t stride, int64_t outer, int64_t samples) {
  Vec seen = {};
  for (int64_t j = 0; j < outer; j++)
    for (int64_t i = 0; i < samples; i++) seen += tile[j * stride + i] * 0.f;
  return all_finite(seen);
}

struct ConvTask {
  Work work;
  const ConvCall* call;
};

// Outputs of one block by the definition, into a tile.
static void direct_conv_tile(const ConvTask& task, const Lanes& in_lanes, Range block, Range outputs,
                             Vec* tile) {
  const Work& work = task.work;
  const ConvCall& call = *task.call;
  const Problem& p = work.plan.problem;
  const int64_t along = strides_of(call.in, p.axis).along, half = p.k / 2;
  for (int64_t o = outputs.begin; o < outputs.end; o++) {
    for (int64_t i = block.begin; i < block.end; i++) {
      Vec& out = tile[(o - outputs.begin) * work.map.tile_stride + i - block.begin];
      const int64_t first = larger(0, half - i), last = smaller(p.k, work.tiling.lines + half - i);
      for (int r = 0; r < in_lanes.count; r++) {
        double sum = 0;
        for (int64_t c = 0; c < p.c; c++)
          for (int64_t t = first; t < last; t++)
            sum += (double)load_element(call.in,
                                        in_lanes.offset[r] + c * call.in.stride_c + (i + t - half) * along) *
                   call.filter
                       .data[o * call.filter.stride_o + c * call.filter.stride_c + t * call.filter.stride_t];
        out[r] = (float)sum;
      }
    }
  }
}

// A tile of finished sums, [output][sample], goes to the image.
static void finish_conv_tile(const ConvTask& task, int64_t v, int64_t b, Range outputs,
                             const Scratch& scratch) {
  const Work& work = task.work;
  const ConvCall& call = *task.call;
  const Axis axis = work.plan.problem.axis;
  const Range block = work.block(b);
  const int64_t stride = work.map.tile_stride;
  if (!tile_finite(scratch.tile, stride, outputs.size(), block.size())) {
    const Lanes in = line_lanes(work, v, call.in.stride_n, strides_of(call.in, axis).across);
    direct_conv_tile(task, in, block, outputs, scratch.tile);
  }
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

// ---------------------------------------------------------------- splits

// Partial sums in the workspace: [split][row][sample] with rows of `samples` vectors, of tiles whose first is
// `row`.
static void store_partial(const Vec* tile, int64_t stride, int64_t rows, int64_t samples, Vec* to) {
  for (int64_t j = 0; j < rows; j++)
    for (int64_t i = 0; i < samples; i++) to[j * samples + i] = tile[j * stride + i];
}

static void add_partials(const Vec* from, int64_t split_size, int64_t splits, int64_t rows, int64_t samples,
                         Vec* tile, int64_t stride) {
  for (int64_t j = 0; j < rows; j++)
    for (int64_t i = 0; i < samples; i++) {
      Vec sum = from[j * samples + i];
      for (int64_t s = 1; s < splits; s++) sum += from[s * split_size + j * samples + i];
      tile[j * stride + i] = sum;
    }
}

// ---------------------------------------------------------------- conv

GCN_INLINE Vec* conv_partial(const ConvTask& task, int64_t split, int64_t v, int64_t b, int64_t output) {
  const Plan& plan = task.work.plan;
  const int64_t row =
      ((split * task.work.tiling.lane_vectors + v) * plan.blocks + b) * plan.problem.o + output;
  return (Vec*)task.call->workspace + row * plan.block;
}

static void conv_unit(const ConvTask& task, int64_t unit) {
  const Work& work = task.work;
  const Plan& plan = work.plan;
  const Tiling& t = work.tiling;
  const ConvCall& call = *task.call;
  const Scratch scratch(work.map);
  const Strides strides = strides_of(call.in, plan.problem.axis);

  const int64_t b = unit % plan.blocks, rest = unit / plan.blocks;
  const int64_t tile = rest % t.lane_tiles, rest2 = rest / t.lane_tiles;
  const int64_t part = rest2 % plan.output_parts, split = rest2 / plan.output_parts;
  const Range slices = part_of(t.reduction_slices, split, plan.splits);
  const Range output_slices = part_of(t.output_slices, part, plan.output_parts);

  Lanes lanes[kMaxVectors];
  for (int p = 0; p < plan.vectors; p++)
    lanes[p] = line_lanes(work, tile * plan.vectors + p, call.in.stride_n, strides.across);
  const auto rows = [&](int64_t i) {
    const Range channels = work.reduction_slice(i);
    return Rows{
        &call.in, channels.begin * call.in.stride_c, strides.along, call.in.stride_c, channels.size(), b,
        lanes};
  };

  for (int64_t slice = output_slices.begin; slice < output_slices.end; slice++) {
    const Range outputs = work.output_slice(slice);
    for (int64_t i = slices.begin; i < slices.end; i++) {
      const bool first = i == slices.begin, in_scratch = slices.size() == 1 && slice > output_slices.begin;
      if (!in_scratch) forward_rows(work, rows(i), 0, !first, scratch);
      const Range channels = work.reduction_slice(i);
      multiply(work, scratch, call.spectra + work.broadcast_offset(outputs, channels), channels.size(),
               outputs.size(), first, i + 1 < slices.end ? rows(i + 1).prefetcher(work) : Prefetcher());
    }
    for (int p = 0; p < plan.vectors; p++) {
      const int64_t v = tile * plan.vectors + p;
      if (lanes[p].count == 0) continue;
      for (int64_t o = outputs.begin; o < outputs.end; o += kLanes) {
        const Range group = {o, smaller(outputs.end, o + kLanes)};
        for (int64_t j = 0; j < group.size(); j++)
          work.transform->inverse(scratch.product + (o - outputs.begin + j) * plan.vectors + p,
                                  work.map.product_stride, scratch.tile + j * work.map.tile_stride,
                                  scratch.transform);
        if (plan.splits > 1)
          store_partial(scratch.tile, work.map.tile_stride, group.size(), plan.block,
                        conv_partial(task, split, v, b, o));
        else
          finish_conv_tile(task, v, b, group, scratch);
      }
    }
  }
}

static void conv_reduce_unit(const ConvTask& task, int64_t unit) {
  const Work& work = task.work;
  const Plan& plan = work.plan;
  const Scratch scratch(work.map);
  const int64_t groups = divide_up(plan.problem.o, kLanes);
  const int64_t o = unit % groups * kLanes, b = unit / groups % plan.blocks, v = unit / groups / plan.blocks;
  const Range group = {o, smaller(plan.problem.o, o + kLanes)};
  const int64_t split_size = work.tiling.lane_vectors * plan.blocks * plan.problem.o * plan.block;
  add_partials(conv_partial(task, 0, v, b, o), split_size, plan.splits, group.size(), plan.block,
               scratch.tile, work.map.tile_stride);
  finish_conv_tile(task, v, b, group, scratch);
}

// ---------------------------------------------------------------- several calls side by side

// Units of a phase, of all calls: those of call i follow those of call i - 1.
template <class Task>
struct Phase {
  const Task* tasks;
  int count;
  int64_t end[kMaxCalls];
  void (*unit)(const Task&, int64_t);

  static void run_unit(void* arg, int64_t i) {
    const Phase& phase = *(const Phase*)arg;
    int task = 0;
    while (i >= phase.end[task]) task++;
    phase.unit(phase.tasks[task], i - (task ? phase.end[task - 1] : 0));
  }
};

template <class Task, class Count>
static void run_phase(const Task* tasks, int count, const Count& count_units,
                      void (*unit)(const Task&, int64_t), const Parallel& parallel) {
  Phase<Task> phase = {tasks, count, {}, unit};
  int64_t total = 0;
  for (int i = 0; i < count; i++) phase.end[i] = total += count_units(tasks[i]);
  if (total) parallel.run(parallel.context, total, Phase<Task>::run_unit, &phase);
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
          return plan.splits == 1
                     ? 0
                     : task.work.tiling.lane_vectors * plan.blocks * divide_up(plan.problem.o, kLanes);
        },
        conv_reduce_unit, parallel);
  }
}

// ---------------------------------------------------------------- wgrad

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

static void direct_wgrad_tile(const WgradTask& task, int64_t v, Range outputs, Vec* tile) {
  const Work& work = task.work;
  const Problem& p = work.plan.problem;
  const ConstImage &in = task.call->in, &dout = task.call->dout;
  const Strides si = strides_of(in, p.axis), so = strides_of(dout, p.axis);
  const Lanes lanes = channel_lanes(work, v, in.stride_c);
  for (int64_t o = outputs.begin; o < outputs.end; o++) {
    for (int64_t t = 0; t < work.plan.taps; t++) {
      const int64_t shift = t - work.halo();
      for (int r = 0; r < lanes.count; r++) {
        double sum = 0;
        for (int64_t n = 0; n < p.n; n++)
          for (int64_t q = 0; q < work.tiling.across; q++)
            for (int64_t i = larger(0, -shift); i < smaller(work.tiling.lines, work.tiling.lines - shift);
                 i++)
              sum += (double)load_element(
                         in, n * in.stride_n + lanes.offset[r] + q * si.across + (i + shift) * si.along) *
                     load_element(dout, n * dout.stride_n + o * dout.stride_c + q * so.across + i * so.along);
        tile[(o - outputs.begin) * work.map.tile_stride + t][r] = (float)sum;
      }
    }
  }
}

static void finish_wgrad_tile(const WgradTask& task, int64_t v, Range outputs, const Scratch& scratch) {
  const Work& work = task.work;
  const FilterGrad& grad = task.call->grad;
  const int64_t taps = work.plan.taps, first = work.tiling.first_tap, k = work.plan.problem.k;
  if (!tile_finite(scratch.tile, work.map.tile_stride, outputs.size(), taps))
    direct_wgrad_tile(task, v, outputs, scratch.tile);
  const Lanes lanes = channel_lanes(work, v, grad.stride_c);
  store_tile({grad.data, DType::kFloat32, 0, 0, 0, 0}, outputs.begin * grad.stride_o + first * grad.stride_t,
             lanes, {outputs.size(), grad.stride_o, taps, grad.stride_t}, scratch.tile, work.map.tile_stride);
  for (int64_t o = outputs.begin; o < outputs.end && taps < k; o++)  // taps that never meet the image
    for (int r = 0; r < lanes.count; r++)
      for (int64_t t = 0; t < k; t++)
        if (t < first || t >= first + taps)
          grad.data[o * grad.stride_o + lanes.offset[r] + t * grad.stride_t] = 0.f;
}

GCN_INLINE Vec* wgrad_partial(const WgradTask& task, int64_t split, int64_t v, int64_t output) {
  const Work& work = task.work;
  const int64_t spectra =
      divide_up(work.tiling.planes * work.tiling.reductions * work.plan.problem.o * 4, 64) * 64;
  const int64_t row = (split * work.tiling.lane_vectors + v) * work.plan.problem.o + output;
  return (Vec*)((char*)task.call->workspace + spectra) + row * work.plan.taps;
}

static void wgrad_unit(const WgradTask& task, int64_t unit) {
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
    return Rows{&in,
                at.n * in.stride_n + at.q * strides.across,
                strides.along,
                strides.across,
                smaller(end - r, t.across - at.q),
                at.b,
                lanes};
  };

  for (int64_t slice = output_slices.begin; slice < output_slices.end; slice++) {
    const Range outputs = work.output_slice(slice);
    for (int64_t i = slices.begin; i < slices.end; i++) {
      const Range reductions = work.reduction_slice(i);
      const bool first = i == slices.begin, in_scratch = slices.size() == 1 && slice > output_slices.begin;
      for (int64_t r = reductions.begin; r < reductions.end && !in_scratch;) {
        const Rows lines = rows(r, reductions.end);
        forward_rows(work, lines, r - reductions.begin, !first && r == reductions.begin, scratch);
        r += lines.count;
      }
      multiply(work, scratch, (const float*)task.call->workspace + work.broadcast_offset(outputs, reductions),
               reductions.size(), outputs.size(), first,
               i + 1 < slices.end
                   ? rows(work.reduction_slice(i + 1).begin, work.reduction_slice(i + 1).end).prefetcher(work)
                   : Prefetcher());
    }
    for (int p = 0; p < plan.vectors; p++) {
      const int64_t v = tile * plan.vectors + p;
      if (lanes[p].count == 0) continue;
      for (int64_t o = outputs.begin; o < outputs.end; o += kLanes) {
        const Range group = {o, smaller(outputs.end, o + kLanes)};
        for (int64_t j = 0; j < group.size(); j++)
          work.transform->inverse(scratch.product + (o - outputs.begin + j) * plan.vectors + p,
                                  work.map.product_stride, scratch.tile + j * work.map.tile_stride,
                                  scratch.transform);
        if (plan.splits > 1)
          store_partial(scratch.tile, work.map.tile_stride, group.size(), plan.taps,
                        wgrad_partial(task, split, v, o));
        else
          finish_wgrad_tile(task, v, group, scratch);
      }
    }
  }
}

static void wgrad_reduce_unit(const WgradTask& task, int64_t unit) {
  const Work& work = task.work;
  const Plan& plan = work.plan;
  const Scratch scratch(work.map);
  const int64_t groups = divide_up(plan.problem.o, kLanes), o = unit % groups * kLanes, v = unit / groups;
  const Range group = {o, smaller(plan.problem.o, o + kLanes)};
  add_partials(wgrad_partial(task, 0, v, o), work.tiling.lane_vectors * plan.problem.o * plan.taps,
               plan.splits, group.size(), plan.taps, scratch.tile, work.map.tile_stride);
  finish_wgrad_tile(task, v, group, scratch);
}

static void wgrad(const WgradCall* calls, int count, const Parallel& parallel) {
  for (int first = 0; first < count; first += kMaxCalls) {
    const int n = (int)smaller(kMaxCalls, count - first);
    WgradTask tasks[kMaxCalls];
    for (int i = 0; i < n; i++) tasks[i] = {Work(*calls[first + i].plan, true), &calls[first + i]};
    run_phase(
        tasks, n,
        [](const WgradTask& task) {
          return task.work.tiling.output_slices * task.work.tiling.reduction_slices;
        },
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

const Backend GCN_FFT_BACKEND = {GCN_FFT_ISA::prepare, GCN_FFT_ISA::conv, GCN_FFT_ISA::wgrad};

}  // namespace fft
}  // namespace gcn_kernels
