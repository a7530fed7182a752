// Depthwise strips in one launch, forward or backward: a block carries out a program on a tile of some channels of an image.
//
//   conv    dst = [addend +] sum over taps of w[tap] src[p + tap] + bias, zero outside of the image
//   dot     dw[tap] = sum over the tile's pixels of g[p] x[p + tap], db = sum of g: parts, which strips_finish.cuh adds up
//
// All maps of the program are in shared memory (strips_kernels.h), in fp32 (fp64 for fp64), so that device memory sees each image
// once, and halos of tiles once more, mostly in L2. Operations are separated by barriers; several blocks share a multiprocessor
// and fill each other's waits.
//
// A kernel's longer axis is its "along" axis. A thread computes 16 or 8 neighbouring outputs along it (strips_lines.cuh), and
// its lanes are neighbours across that axis: next to each other in memory where lines are columns, and a pitch of an odd number
// of quads apart where they are rows, so that neither meets in a bank. A lane of a dot keeps the sums of all taps over its
// pixels; a warp adds up its lanes by shuffles in a fixed order, and the warps of a channel go through shared memory.
//
// Cost: with k taps known to the compiler 16 outputs take 16 k multiply-adds, k + 15 loads down a column or a quarter as many
// along a row, 16 stores, and about 50 instructions beside them. MSCA is about 140 instructions a pixel, of which 103 are
// multiply-adds, and 30 times 128 bytes of shared memory to 32 pixels.
#pragma once

#include "../device.cuh"
#include "strips_kernels.h"
#include "strips_lines.cuh"
#include "strips_unit.cuh"

namespace gcn::cuda {

template <class E>
class StripsBlock : public StripsUnit<StripsBlock<E>, E, Accumulator<E>> {
  using Unit = StripsUnit<StripsBlock<E>, E, Accumulator<E>>;
  friend Unit;
  using Unit::kChannel, Unit::kChannels, Unit::kColumn, Unit::kImage, Unit::kRow, Unit::kTile;
  using Unit::lane, Unit::of_unit, Unit::p, Unit::shared, Unit::threads, Unit::tid, Unit::warp, Unit::warps, Unit::zero_outside;

 public:
  using typename Unit::A;
  using Unit::Unit;

 private:
  // [channel][line][tap, padded], and the bias behind it. Every operation's are a warp's of their own.
  GCN_DEVICE void load_weights() const {
    const int channel0 = of_unit(kChannel), channels = of_unit(kChannels);
#pragma unroll 1
    for (int i = warp(); i < p.ops; i += warps()) {
      const StripsOp& op = p.op[i];
      if (op.kind != StripsKind::kConv) continue;
      const StripsKernel& k = p.kernel[op.kernel];
      const StripsAxes axes(k);
      const int count = axes.lines * axes.taps;
      A* const to = shared + kStripsFront + op.weights;
#pragma unroll 1
      for (int at = lane(); at <= count; at += kStripsWarp) {
        const int u = at / axes.taps, t = at % axes.taps, natural = axes.natural(u, t);
        const E* const weight = static_cast<const E*>(k.weight) + int64_t(channel0) * count;
        const E* const from = weight + (op.flipped ? count - 1 - natural : natural);
        const E* const bias = op.flipped || !k.bias ? nullptr : static_cast<const E*>(k.bias) + channel0;
        const bool of_bias = at == count;
        A* const place = to + (of_bias ? axes.lines * axes.padded : u * axes.padded + t);
#pragma unroll 1
        for (int c = 0; c < channels; ++c) {
          const A value = of_bias ? bias ? A(to_float(bias[c])) : A(0) : A(to_float(from[int64_t(c) * count]));
          store_shared(place + c * p.weight_plane, value);
        }
      }
    }
  }

  GCN_DEVICE void conv(const StripsOp& op) const {
    const StripsMap& dst = p.map[op.dst];
    const StripsAxes axes(p.kernel[op.kernel]);
    const StripsSpan in_h(of_unit(kRow) - dst.rh, dst.rows, p.h), in_w(of_unit(kColumn) - dst.rw, dst.cols, p.w);
    if (op.addend != StripsAddend::kItself) zero_outside(dst, in_h, in_w);
    if (axes.down) {
      conv_along<true>(op, axes, in_h, in_w);
    } else {
      conv_along<false>(op, axes, in_w, in_h);
    }
  }

  template <bool kDown>
  GCN_DEVICE void conv_along(const StripsOp& op, const StripsAxes& axes, const StripsSpan& along,
                             const StripsSpan& across) const {
    // More outputs of a thread are fewer loads to each, and less beside them, as far as registers go. Whole groups stay within
    // the region, which has whole groups of the smallest kind.
    const int groups = (along.size() + kStripsGroup - 1) / kStripsGroup;
    with_taps<A>(groups % 2 == 0 ? axes.taps_known() : 0, [&](auto known) {
      constexpr int kTaps = decltype(known)::kValue;
      if constexpr (kTaps == 0) {
        conv_inside<kTaps, kDown, kStripsGroup>(op, axes, along, across);
      } else {
        if constexpr (kDown && kTaps <= kStripsTapsOfMany) {
          if (groups % 4 == 0) return conv_inside<kTaps, kDown, 4 * kStripsGroup>(op, axes, along, across);
        }
        conv_inside<kTaps, kDown, 2 * kStripsGroup>(op, axes, along, across);
      }
    });
  }

  template <int kTaps, bool kDown, int kOutputs>
  GCN_DEVICE void conv_inside(const StripsOp& op, const StripsAxes& axes, const StripsSpan& along,
                              const StripsSpan& across) const {
    const StripsMap &src = p.map[op.src], &dst = p.map[op.dst];
    const StripsKernel& k = p.kernel[op.kernel];
    const int lines = across.size(), groups = quotient(along.size() + kOutputs - 1, kOutputs);
    const int step = kDown ? src.pitch : 1, line_step = kDown ? 1 : src.pitch, to_step = kDown ? dst.pitch : 1;
    // Of the first tap of the first output.
    const int origin = (src.rh - dst.rh - k.dh * (k.kh / 2)) * src.pitch + (src.rw - dst.rw - k.dw * (k.kw / 2));
#pragma unroll 1
    for (int task = tid; task < lines * groups * of_unit(kChannels); task += threads) {
      const int rest = quotient(task, lines), c = quotient(rest, groups);
      const int line = across.begin + (task - rest * lines), first = along.begin + (rest - c * groups) * kOutputs;
      const A* weights = shared + kStripsFront + c * p.weight_plane + op.weights;
      const A bias = load_shared(weights + axes.lines * axes.padded);
      A sum[kOutputs];
#pragma unroll
      for (A& s : sum) s = bias;
      const A* from = shared + src.first + c * src.plane + origin + line * line_step + first * step;
      int left = axes.lines;
#pragma unroll 1
      do {
        if constexpr (kTaps > 0) {
          add_taps<kTaps, kDown>(sum, from, step, weights);
        } else if (axes.dilation == 1) {
          add_line(sum, from, step, weights, axes.taps);
        } else {
          add_dilated_line(sum, from, step, axes.dilation, weights, axes.taps);
        }
        from += axes.line_dilation * line_step, weights += axes.padded;
      } while (--left > 0);
      const int at = line * (kDown ? 1 : dst.pitch) + first * to_step;
      if (op.addend != StripsAddend::kNone) {
        const StripsMap& map = op.addend == StripsAddend::kMap ? p.map[op.addend_map] : dst;
        const A* const addend = shared + map.first + c * map.plane + (map.rh - dst.rh) * map.pitch + (map.rw - dst.rw) +
                                line * (kDown ? 1 : map.pitch) + first * (kDown ? map.pitch : 1);
        for_each_input<kDown, kOutputs, 0>(addend, map.pitch, [&](int i, A value) { sum[i] += value; });
      }
      A* const to = shared + dst.first + c * dst.plane + at;
      if (!kDown && first + kOutputs <= along.end) {
#pragma unroll
        for (int i = 0; i < kOutputs; i += kStripsQuad) store_quad(to + i, {sum[i], sum[i + 1], sum[i + 2], sum[i + 3]});
        continue;
      }
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        if (first + i < along.end) store_shared(to + i * to_step, sum[i]);
      }
    }
  }

  // A dot's sums in shared memory, for each channel, line of the kernel and share of the pixels: the taps', padded, and the
  // bias's in the place after the last tap of the first line, which the padding always has, as taps are odd.
  struct DotSums {
    int taps, lines, padded;

    GCN_DEVICE DotSums(const StripsOp& op, const StripsAxes& axes) {
      taps = op.weight ? axes.taps : 0, lines = op.weight ? axes.lines : 1, padded = op.weight ? axes.padded : kStripsGroup;
    }
  };

  GCN_DEVICE void dot(const StripsOp& op) const {
    const StripsKernel& k = p.kernel[op.kernel];
    const StripsAxes axes(k);
    const DotSums sums(op, axes);
    const int rows = min(p.tile_h, p.h - of_unit(kRow)), cols = min(p.tile_w, p.w - of_unit(kColumn));
    const int along = axes.down ? rows : cols, across = axes.down ? cols : rows;
    // Sums of all taps at a time need whole groups of pixels: what lies beyond the image must not be multiplied by anything.
    const bool whole = along % (2 * kStripsGroup) == 0;
    with_taps<A>(op.weight && whole ? axes.taps_known() : 0, [&](auto known) {
      constexpr int kTaps = decltype(known)::kValue;
      if constexpr (kTaps == 0) {
        dot_by_chunks(op, axes, sums, along, across);
      } else if (axes.down) {
        dot_inside<kTaps, true>(op, axes, along, across);
      } else {
        dot_inside<kTaps, false>(op, axes, along, across);
      }
    });
    __syncthreads();

    const A* const scratch = shared + p.scratch;
    const int channels = of_unit(kChannels);
    const int64_t part = int64_t(of_unit(kImage)) * (p.tiles_h * p.tiles_w) + of_unit(kTile);
    A* const to = static_cast<A*>(p.partial) + (part * p.c + of_unit(kChannel)) * p.sums + op.sums;
    const int of_weight = sums.lines * sums.taps, all = of_weight + op.bias;
    for (int i = tid; i < channels * all; i += threads) {
      const int c = i / all, at = i % all;
      const int u = at < of_weight ? at / sums.taps : 0, t = at < of_weight ? at % sums.taps : sums.taps;
      const A* const parts = scratch + (c * sums.lines + u) * op.splits * sums.padded + t;
      A total = 0;
      for (int split = 0; split < op.splits; ++split) total += load_shared(parts + split * sums.padded);
      to[int64_t(c) * p.sums + (at < of_weight ? axes.natural(u, t) : at)] = total;
    }
  }

  // A warp has a share of the pixels at a time, a lane some neighbouring ones.
  template <int kTaps, bool kDown>
  GCN_DEVICE void dot_inside(const StripsOp& op, const StripsAxes& axes, int along, int across) const {
    constexpr int kPixels = kTaps <= kStripsTapsOfMany ? 2 * kStripsGroup : kStripsGroup;
    constexpr int kPadded = (kTaps + kStripsGroup - 1) / kStripsGroup * kStripsGroup;
    const StripsMap &x = p.map[op.src], &g = p.map[op.dst];
    const StripsKernel& k = p.kernel[op.kernel];
    const A* const g_core = shared + g.first + g.rh * g.pitch + g.rw;
    const A* const x_core = shared + x.first + (x.rh - k.dh * (k.kh / 2)) * x.pitch + (x.rw - k.dw * (k.kw / 2));
    const int pieces = along / kPixels * across, tasks = of_unit(kChannels) * axes.lines * op.splits;
#pragma unroll 1
    for (int task = warp(); task < tasks; task += warps()) {
      const int item = quotient(task, op.splits), split = task - item * op.splits;
      const int c = quotient(item, axes.lines), u = item - c * axes.lines;
      const A* const g_of = g_core + c * g.plane;
      const A* const x_of = x_core + c * x.plane + u * axes.line_dilation * (kDown ? 1 : x.pitch);
      A sum[kPadded] = {};
#pragma unroll 1
      for (int piece = split * kStripsWarp + lane(); piece < pieces; piece += kStripsWarp * op.splits) {
        const int group = quotient(piece, across), line = piece - group * across, first = group * kPixels;
        A of_pixel[kPixels];
        load_values<kDown>(of_pixel, g_of + (kDown ? line + first * g.pitch : line * g.pitch + first), g.pitch);
#pragma unroll
        for (int i = 0; i < kPixels; ++i) sum[kTaps] += of_pixel[i];
        add_products<kTaps, kDown>(sum, of_pixel, x_of + (kDown ? line + first * x.pitch : line * x.pitch + first), x.pitch);
      }
      A* const to = shared + p.scratch + task * kPadded;
#pragma unroll
      for (int t = 0; t < kPadded; t += kStripsGroup) {
        A some[kStripsGroup];
#pragma unroll
        for (int i = 0; i < kStripsGroup; ++i) some[i] = sum[t + i];
        const A total = sum_over_warp(some, lane());
        if (lane() % 4 == 0) store_shared(to + t + lane() / 4, total);
      }
    }
  }

  // Any taps on any map: eight taps at a time.
  GCN_DEVICE void dot_by_chunks(const StripsOp& op, const StripsAxes& axes, const DotSums& sums, int along, int across) const {
    const StripsMap &x = p.map[op.src], &g = p.map[op.dst];
    const StripsKernel& k = p.kernel[op.kernel];
    const int g_step = axes.down ? g.pitch : 1, g_line = axes.down ? 1 : g.pitch;
    const int x_step = axes.down ? x.pitch : 1, x_line = axes.down ? 1 : x.pitch;
    const A* const g_core = shared + g.first + g.rh * g.pitch + g.rw;
    const A* const x_core = shared + x.first + (x.rh - k.dh * (k.kh / 2)) * x.pitch + (x.rw - k.dw * (k.kw / 2));
    const int pieces = (along + kStripsGroup - 1) / kStripsGroup * across, chunks = sums.padded / kStripsGroup;
    const int tasks = of_unit(kChannels) * sums.lines * op.splits * chunks;
#pragma unroll 1
    for (int task = warp(); task < tasks; task += warps()) {
      const int chunk = task % chunks, split = task / chunks % op.splits, item = task / chunks / op.splits;
      const int u = item % sums.lines, c = item / sums.lines, first_tap = chunk * kStripsGroup;
      const int taps = min(kStripsGroup, sums.taps - first_tap);
      const bool of_bias = op.bias && u == 0 && taps < kStripsGroup;
      A sum[kStripsGroup] = {}, bias = 0;
#pragma unroll 1
      for (int piece = split * kStripsWarp + lane(); piece < pieces; piece += kStripsWarp * op.splits) {
        const int line = piece % across, first = piece / across * kStripsGroup, count = min(kStripsGroup, along - first);
        const A* const from = g_core + c * g.plane + line * g_line + first * g_step;
        if (op.weight) {
          const A* const inputs =
              x_core + c * x.plane + (line + u * axes.line_dilation) * x_line + (first + first_tap * axes.dilation) * x_step;
          add_some_products(sum, from, g_step, count, inputs, x_step, axes.dilation, taps);
        }
        if (of_bias) {
          for (int i = 0; i < count; ++i) bias += load_shared(from + i * g_step);
        }
      }
#pragma unroll
      for (int t = 0; t < kStripsGroup; ++t) {
        if (of_bias && t == taps) sum[t] = bias;
      }
      const A total = sum_over_warp(sum, lane());
      if (lane() % 4 == 0) store_shared(shared + p.scratch + task * kStripsGroup + lane() / 4, total);
    }
  }
};

template <class E>
__global__ void __launch_bounds__(strips_most_threads(sizeof(E)), 1) strips_tile_kernel(GCN_PARAMS StripsTile p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const StripsBlock<E> block(p, shared);
  if (is_unit(p, strips_unit())) block.run(strips_unit());
}

template <class E>
int launch_strips_tile(const StripsTile& p, int64_t blocks, int threads, int shared_bytes, Stream s) {
  return launch(strips_tile_kernel<E>, strips_launch(blocks, threads, shared_bytes, s), p);
}

}  // namespace gcn::cuda
