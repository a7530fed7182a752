// The parts of a unit of work that conv.h and wgrad.h share. plan.h explains the terms. For each of its
// output slices a unit does
//
//   for each reduction slice:   forward    load a tile, transform, spectra of the slice into scratch
//                               multiply   planes of spectra x planes of the broadcast operand, into
//                               accumulators
//   for each group of outputs:  inverse    recombine and transform back into a tile
//                               emit       check for non-finite values, bias, addend, store; or a partial sum
//
// Positions in a transform: a block with outputs o0 .. o0 + B - 1 holds sample i at i - o0 + taps/2 and
// output o at o - o0. With W the conjugate spectrum of the taps at 0 .. taps - 1, the cyclic correlation X W
// is the conv. With dout's sample o at o - o0 and its conjugate spectrum D, X D is dw with tap t at position
// t, for every block.
//
// The broadcast operand lies in memory as [output slice][reduction slice][plane][reduction][output].
//
// On one Zen 4 core with AVX-512, a first conv of 256 channels, 128 x 128 pixels and 15 taps takes 5.3 ms:
// product 2.9 (at the FMA rate), load and transpose 0.9 (L3), transform 0.65, fetching 0.35, inverse and
// store 0.45.
#pragma once

#include "backend.h"
#include "plan.h"
#include "product.h"
#include "simd.h"
#include "tile_io.h"
#include "transform.h"

namespace gcn::cpu {
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
  Range output_slice(int64_t i) const { return {i * plan.outputs, smaller(plan.problem.o, (i + 1) * plan.outputs)}; }
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
static void forward_rows(const Work& work, const Rows& rows, int64_t first, bool fetched, const Scratch& scratch) {
  const Range samples = samples_of(work, rows.block);
  const int64_t lead = samples.begin - (rows.block * work.plan.block - work.halo()), stride = work.map.tile_stride;
  const int vectors = work.plan.vectors;
  Prefetcher ahead;
  if (!fetched) ahead = rows.prefetcher(work);
  ahead.skip_to(kLanes);
  const int64_t lines_per_row = divide_up(ahead.lines(), larger(1, rows.count - kLanes) * vectors);
  for (int64_t row = 0; row < rows.count; row += kLanes) {
    const int64_t group = smaller(kLanes, rows.count - row);
    for (int p = 0; p < vectors; p++) {
      load_tile(*rows.image, rows.base + row * rows.row_stride + samples.begin * rows.stride_along, rows.lanes[p],
                {group, rows.row_stride, samples.size(), rows.stride_along}, scratch.tile + lead, stride);
      for (int64_t j = 0; j < group; j++) {
        Vec* x = scratch.tile + j * stride;
        clear(x, x + lead);
        clear(x + lead + samples.size(), x + work.plan.length);
        ahead.fetch(lines_per_row);
        work.transform->forward(x, scratch.spectra + (first + row + j) * vectors + p, work.map.spectrum_stride,
                                scratch.transform);
      }
    }
  }
}

// ---------------------------------------------------------------- multiply

// Meanwhile fetches the image's rows of the next slice.
static void multiply(const Work& work, const Scratch& scratch, const float* broadcast, int64_t reductions, int64_t outputs,
                     bool first, Prefetcher ahead) {
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

// ---------------------------------------------------------------- one tile of lanes

// All outputs of some output slices, summed over some reduction slices, for plan.vectors vectors of lanes.
//   forward(i, fetched)   puts the spectra of reduction slice i into scratch; fetched: its rows were fetched
//   before ahead(i)              the rows to fetch for it emit(p, outputs)      takes the sums of up to
//   kLanes outputs of vector p from scratch.tile
template <class Forward, class Ahead, class Emit>
static void run_tile(const Work& work, const float* broadcast, Range slices, Range output_slices, const Lanes* lanes,
                     const Scratch& scratch, const Forward& forward, const Ahead& ahead, const Emit& emit) {
  const int vectors = work.plan.vectors;
  for (int64_t slice = output_slices.begin; slice < output_slices.end; slice++) {
    const Range outputs = work.output_slice(slice);
    for (int64_t i = slices.begin; i < slices.end; i++) {
      const bool first = i == slices.begin, in_scratch = slices.size() == 1 && slice > output_slices.begin;
      if (!in_scratch) forward(i, !first);
      const Range reductions = work.reduction_slice(i);
      multiply(work, scratch, broadcast + work.broadcast_offset(outputs, reductions), reductions.size(), outputs.size(), first,
               i + 1 < slices.end ? ahead(i + 1) : Prefetcher());
    }
    for (int p = 0; p < vectors; p++) {
      if (lanes[p].count == 0) continue;
      for (int64_t o = outputs.begin; o < outputs.end; o += kLanes) {
        const Range group = {o, smaller(outputs.end, o + kLanes)};
        for (int64_t j = 0; j < group.size(); j++)
          work.transform->inverse(scratch.product + (o - outputs.begin + j) * vectors + p, work.map.product_stride,
                                  scratch.tile + j * work.map.tile_stride, scratch.transform);
        emit(p, group);
      }
    }
  }
}

// The running sum of v * 0 is NaN from the first NaN or infinity on.
static bool tile_finite(const Vec* tile, int64_t stride, int64_t outer, int64_t samples) {
  Vec seen = {};
  for (int64_t j = 0; j < outer; j++)
    for (int64_t i = 0; i < samples; i++) seen += tile[j * stride + i] * 0.f;
  return all_finite(seen);
}

// ---------------------------------------------------------------- splits

// Partial sums in the workspace: [split][row][sample] with rows of `samples` vectors, of tiles whose first is
// `row`.
static void store_partial(const Vec* tile, int64_t stride, int64_t rows, int64_t samples, Vec* to) {
  for (int64_t j = 0; j < rows; j++)
    for (int64_t i = 0; i < samples; i++) to[j * samples + i] = tile[j * stride + i];
}

static void add_partials(const Vec* from, int64_t split_size, int64_t splits, int64_t rows, int64_t samples, Vec* tile,
                         int64_t stride) {
  for (int64_t j = 0; j < rows; j++)
    for (int64_t i = 0; i < samples; i++) {
      Vec sum = from[j * samples + i];
      for (int64_t s = 1; s < splits; s++) sum += from[s * split_size + j * samples + i];
      tile[j * stride + i] = sum;
    }
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
static void run_phase(const Task* tasks, int count, const Count& count_units, void (*unit)(const Task&, int64_t),
                      const Parallel& parallel) {
  Phase<Task> phase = {tasks, count, {}, unit};
  int64_t total = 0;
  for (int i = 0; i < count; i++) phase.end[i] = total += count_units(tasks[i]);
  if (total) parallel.run(parallel.context, total, Phase<Task>::run_unit, &phase);
}

}  // namespace GCN_FFT_ISA
}  // namespace fft
}  // namespace gcn::cpu
