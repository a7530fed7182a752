// Depthwise strips in one launch, forward or backward: a block carries out a program on a tile of some channels of an image.
//
//   load    map = image, zero outside of it                     store   image = map
//   conv    dst = [addend +] sum over taps of w[tap] src[p + tap] + bias, zero outside of the image
//   dot     dw[tap] = sum over the tile's pixels of g[p] x[p + tap], db = sum of g: parts, which strips_finish.cuh adds up
//
// All maps of the program are in shared memory (strips_kernels.h), in fp32 (fp64 for fp64), so that device memory sees each image
// once, and halos of tiles once more, mostly in L2. Operations are separated by barriers.
//
// A kernel's longer axis is its "along" axis. A thread computes 8 or 16 neighbouring outputs along it from a window in registers:
// for 16 with k taps it reads k + 15 inputs and k / 4 vectors of weights to 16 k multiply-adds. Its lanes are neighbours across
// that axis; the odd pitch puts them into different banks either way. A warp of a dot has 8 taps at a time, its lanes have
// different pixels, and what they have is added by shuffles in a fixed order.
//
// Cost: at k = 21 a task of 16 outputs takes about 480 instructions, of which 336 are multiply-adds, so that these bind (128 a
// clock and SM); of MSCA 103 a pixel, four to five times the time that device memory needs for 16 bits.
#pragma once

#include <algorithm>

#include "../device.cuh"
#include "strips_kernels.h"

namespace gcn::cuda {

constexpr int kStripsWarp = 32, kStripsLinesAtOnce = 8, kStripsElementsAtOnce = 2;

GCN_DEVICE void load_vector(float* to, const float* from) {
  const float4 v = load_shared(reinterpret_cast<const float4*>(from));
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
GCN_DEVICE void load_vector(double* to, const double* from) {
  const double2 v = load_shared(reinterpret_cast<const double2*>(from));
  to[0] = v.x, to[1] = v.y;
}

// sum[i] += w[t] line[i + t]: `line` points to the first input of output 0, `step` is from one to the next.
template <class A, int kOutputs>
GCN_DEVICE void add_line(A (&sum)[kOutputs], const A* line, int step, const A* weights, int taps) {
  constexpr int kGroup = kStripsGroup, kVector = 16 / sizeof(A);
  A window[kOutputs + kGroup - 1], w[kGroup];
#pragma unroll
  for (int i = 0; i < kOutputs - 1; ++i) window[i] = load_shared(line + i * step);
  line += (kOutputs - 1) * step;
#pragma unroll 1
  for (; taps >= kGroup; taps -= kGroup, line += kGroup * step, weights += kGroup) {
#pragma unroll
    for (int t = 0; t < kGroup; t += kVector) load_vector(w + t, weights + t);
#pragma unroll
    for (int t = 0; t < kGroup; ++t) window[kOutputs - 1 + t] = load_shared(line + t * step);
#pragma unroll
    for (int t = 0; t < kGroup; ++t) {
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) sum[i] += w[t] * window[i + t];
    }
#pragma unroll
    for (int i = 0; i < kOutputs - 1; ++i) window[i] = window[i + kGroup];
  }
  // Fewer than a group are left: k is odd.
#pragma unroll
  for (int t = 0; t < kGroup; t += kVector) load_vector(w + t, weights + t);
#pragma unroll
  for (int t = 0; t < kGroup - 1; ++t) window[kOutputs - 1 + t] = t < taps ? load_shared(line + t * step) : A(0);
#pragma unroll
  for (int t = 0; t < kGroup - 1; ++t) {
    if (t >= taps) break;
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) sum[i] += w[t] * window[i + t];
  }
}

// The same where the taps are `dilation` inputs apart: no window, a load for each product.
template <class A, int kOutputs>
GCN_DEVICE void add_dilated_line(A (&sum)[kOutputs], const A* line, int step, int dilation, const A* weights, int taps) {
#pragma unroll 1
  for (int t = 0; t < taps; ++t, line += dilation * step) {
    const A weight = load_shared(weights + t);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) sum[i] += weight * load_shared(line + i * step);
  }
}

// sum[t] += g[i] x[i + dilation t], over `count` pixels i of at most a group.
template <class A>
GCN_DEVICE void add_products(A (&sum)[kStripsGroup], const A* g, int g_step, int count, const A* x, int x_step, int dilation,
                             int taps) {
  constexpr int kGroup = kStripsGroup;
  if (dilation == 1) {
    A window[2 * kGroup - 1];
#pragma unroll
    for (int i = 0; i < 2 * kGroup - 1; ++i) window[i] = i < count - 1 + taps ? load_shared(x + i * x_step) : A(0);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      if (i >= count) break;
      const A of_pixel = load_shared(g + i * g_step);
#pragma unroll
      for (int t = 0; t < kGroup; ++t) sum[t] += of_pixel * window[i + t];
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const A of_pixel = load_shared(g + i * g_step);
#pragma unroll
    for (int t = 0; t < kGroup; ++t) {
      if (t < taps) sum[t] += of_pixel * load_shared(x + (i + t * dilation) * x_step);
    }
  }
}

// The sum over the warp of each of eight values, of which lane l gets the one of place l / 4.
template <class A>
GCN_DEVICE A sum_over_warp(A (&v)[kStripsGroup], int lane) {
#pragma unroll
  for (int half = kStripsGroup / 2, mask = kStripsWarp / 2; half > 0; half /= 2, mask /= 2) {
    const bool upper = lane & mask;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const A kept_one = upper ? v[i + half] : v[i], sent = upper ? v[i] : v[i + half];
      v[i] = kept_one + shuffle_xor(sent, mask);
    }
  }
  v[0] += shuffle_xor(v[0], 2);
  return v[0] + shuffle_xor(v[0], 1);
}

// A kernel with its longer axis in front.
struct StripsAxes {
  bool down;  // it is the one of the rows
  int taps, dilation, lines, line_dilation;
  int padded;  // taps of a line in shared memory

  GCN_DEVICE explicit StripsAxes(const StripsKernel& k) : down(k.kh > k.kw) {
    taps = down ? k.kh : k.kw, dilation = down ? k.dh : k.dw;
    lines = down ? k.kw : k.kh, line_dilation = down ? k.dw : k.dh;
    padded = (taps + kStripsGroup - 1) / kStripsGroup * kStripsGroup;
  }
  GCN_DEVICE int step(const StripsMap& m) const { return down ? m.pitch : 1; }
  GCN_DEVICE int line_step(const StripsMap& m) const { return down ? 1 : m.pitch; }
  // Of tap `t` of line `u`, in the order of memory.
  GCN_DEVICE int natural(int u, int t) const { return down ? t * lines + u : u * taps + t; }
};

// The part of a region, along an axis, that lies in the image.
struct StripsSpan {
  int begin, end;

  GCN_DEVICE StripsSpan(int origin, int region, int image) : begin(max(0, -origin)), end(min(region, image - origin)) {}
  GCN_DEVICE bool holds(int i) const { return i >= begin && i < end; }
};

template <class E>
class StripsBlock {
 public:
  using A = Accumulator<E>;

  GCN_DEVICE StripsBlock(const StripsTile& p, A* shared)
      : p(p),
        shared(shared),
        tid(int(threadIdx.x)),
        threads(int(blockDim.x)),
        lane(tid % kStripsWarp),
        warp(tid / kStripsWarp),
        warps(threads / kStripsWarp) {}

  GCN_DEVICE void run(int64_t unit) {
    const int tiles = p.tiles_h * p.tiles_w;
    const int64_t rest = p.channels_first ? unit / p.groups : unit / tiles;
    const int group = int(p.channels_first ? unit % p.groups : rest % p.groups);
    const int tile = int(p.channels_first ? rest % tiles : unit % tiles);
    n = p.channels_first ? rest / tiles : rest / p.groups;
    part = n * tiles + tile;
    row0 = tile / p.tiles_w * p.tile_h, col0 = tile % p.tiles_w * p.tile_w;
    channel0 = group * p.channels, channels = min(p.channels, p.c - channel0);
    load_weights();
#pragma unroll 1
    for (int i = 0; i < p.ops; ++i) {
      const StripsOp& op = p.op[i];
      if (op.kind == StripsKind::kConv) {
        conv(op);
      } else if (op.kind == StripsKind::kDot) {
        dot(op);
      } else if (op.kind == StripsKind::kLoad) {
        load(p.image[op.src], p.map[op.dst]);
      } else {
        store(p.map[op.src], p.image[op.dst]);
      }
      __syncthreads();
    }
  }

 private:
  // [channel][line][tap, padded], and the bias behind it.
  GCN_DEVICE void load_weights() const {
#pragma unroll 1
    for (int i = 0; i < p.ops; ++i) {
      const StripsOp& op = p.op[i];
      if (op.kind != StripsKind::kConv) continue;
      const StripsKernel& k = p.kernel[op.kernel];
      const StripsAxes axes(k);
      const int count = axes.lines * axes.taps;
      A* const to = shared + p.weight_first + op.weights;
      for (int j = tid; j < channels * (count + 1); j += threads) {
        const int c = j / (count + 1), at = j % (count + 1);
        A* const of_channel = to + c * p.weight_plane;
        if (at == count) {
          const bool biased = k.bias && !op.flipped;
          const A bias = biased ? A(to_float(static_cast<const E*>(k.bias)[channel0 + c])) : A(0);
          store_shared(of_channel + axes.lines * axes.padded, bias);
          continue;
        }
        const int u = at / axes.taps, t = at % axes.taps, natural = axes.natural(u, t);
        const int64_t from = int64_t(channel0 + c) * count + (op.flipped ? count - 1 - natural : natural);
        store_shared(of_channel + u * axes.padded + t, A(to_float(static_cast<const E*>(k.weight)[from])));
      }
    }
  }

  // Lanes have neighbours in memory: columns of a row, or channels of a pixel. A thread has many loads on their way at a time,
  // which is what hides that memory is far.
  GCN_DEVICE void load(const StridedMap& image, const StripsMap& to) const {
    const StripsSpan in_h(row0 - to.rh, to.rows, p.h), in_w(col0 - to.rw, to.cols, p.w);
    zero_outside(to, in_h, in_w);
    const int rows = in_h.end - in_h.begin, cols = in_w.end - in_w.begin;
    const E* const data = static_cast<const E*>(image.data) +
                          (n * image.stride_n + channel0 * image.stride_c + (row0 - to.rh + in_h.begin) * image.stride_h +
                           (col0 - to.rw + in_w.begin) * image.stride_w);
    A* const inside = shared + to.first + in_h.begin * to.pitch + in_w.begin;
    const int lines = p.channels_first ? rows : channels * rows, inner = p.channels_first ? p.channels * cols : cols;
#pragma unroll 1
    for (int first = warp; first < lines; first += kStripsLinesAtOnce * warps) {
#pragma unroll 1
      for (int e = lane; e < inner; e += kStripsElementsAtOnce * kStripsWarp) {
        A value[kStripsLinesAtOnce][kStripsElementsAtOnce];
#pragma unroll
        for (int i = 0; i < kStripsLinesAtOnce; ++i) {
#pragma unroll
          for (int j = 0; j < kStripsElementsAtOnce; ++j) {
            const Place place = place_of(first + i * warps, e + j * kStripsWarp, rows);
            const bool there = first + i * warps < lines && e + j * kStripsWarp < inner && place.c < channels;
            const int64_t from = place.c * image.stride_c + place.row * image.stride_h + place.col * image.stride_w;
            value[i][j] = there ? A(to_float(data[from])) : A(0);
          }
        }
#pragma unroll
        for (int i = 0; i < kStripsLinesAtOnce; ++i) {
#pragma unroll
          for (int j = 0; j < kStripsElementsAtOnce; ++j) {
            const Place place = place_of(first + i * warps, e + j * kStripsWarp, rows);
            const bool there = first + i * warps < lines && e + j * kStripsWarp < inner && place.c < channels;
            if (there) store_shared(inside + place.c * to.plane + place.row * to.pitch + place.col, value[i][j]);
          }
        }
      }
    }
  }

  GCN_DEVICE void store(const StripsMap& from, const StridedMap& image) const {
    E* const data = static_cast<E*>(const_cast<void*>(image.data)) + (n * image.stride_n + channel0 * image.stride_c);
    const int rows = min(p.tile_h, p.h - row0), cols = min(p.tile_w, p.w - col0);
    const int lines = p.channels_first ? rows : channels * rows, inner = p.channels_first ? p.channels * cols : cols;
    const A* const core = shared + from.first + from.rh * from.pitch + from.rw;
#pragma unroll 1
    for (int line = warp; line < lines; line += warps) {
#pragma unroll 1
      for (int e = lane; e < inner; e += kStripsWarp) {
        const Place place = place_of(line, e, rows);
        if (place.c >= channels) continue;
        const A value = load_shared(core + place.c * from.plane + place.row * from.pitch + place.col);
        data[place.c * image.stride_c + (row0 + place.row) * image.stride_h + (col0 + place.col) * image.stride_w] =
            from_float<E>(value);
      }
    }
  }

  struct Place {
    int c, row, col;
  };
  // Of element `e` of a line: of a row, or, where channels are neighbours, of the row's pixels.
  GCN_DEVICE Place place_of(int line, int e, int rows) const {
    if (p.channels_first) return {e & (p.channels - 1), line, e / p.channels};
    return {line / rows, line % rows, e};
  }

  GCN_DEVICE void conv(const StripsOp& op) const {
    const StripsMap& dst = p.map[op.dst];
    const StripsAxes axes(p.kernel[op.kernel]);
    const StripsSpan in_h(row0 - dst.rh, dst.rows, p.h), in_w(col0 - dst.rw, dst.cols, p.w);
    if (op.addend != StripsAddend::kItself) zero_outside(dst, in_h, in_w);
    const StripsSpan along = axes.down ? in_h : in_w, across = axes.down ? in_w : in_h;
    const int outputs = along.end - along.begin, lines = across.end - across.begin;
    // More outputs of a thread are fewer loads to each, as long as there is work for all threads.
    constexpr int kMany = 2 * kStripsGroup;
    if (outputs % kMany == 0 && outputs / kMany * lines * channels >= threads) {
      conv_inside<kMany>(op, axes, along, across);
    } else {
      conv_inside<kStripsGroup>(op, axes, along, across);
    }
  }

  // What convolutions write lies in the image alone; the padding around it is there once the map's place is first written.
  GCN_DEVICE void zero_outside(const StripsMap& map, const StripsSpan& in_h, const StripsSpan& in_w) const {
    if (in_h.begin == 0 && in_h.end == map.rows && in_w.begin == 0 && in_w.end == map.cols) return;
    const int lines = channels * map.rows;
#pragma unroll 1
    for (int line = warp; line < lines; line += warps) {
      const int c = line / map.rows, row = line % map.rows;
      A* const to = shared + map.first + c * map.plane + row * map.pitch;
      for (int col = lane; col < map.cols; col += kStripsWarp) {
        if (!in_h.holds(row) || !in_w.holds(col)) store_shared(to + col, A(0));
      }
    }
  }

  template <int kOutputs>
  GCN_DEVICE void conv_inside(const StripsOp& op, const StripsAxes& axes, const StripsSpan& along,
                              const StripsSpan& across) const {
    const StripsMap &src = p.map[op.src], &dst = p.map[op.dst];
    const StripsKernel& k = p.kernel[op.kernel];
    const unsigned lines = unsigned(across.end - across.begin);
    const unsigned groups = unsigned(along.end - along.begin + kOutputs - 1) / kOutputs;
    const int step = axes.step(src), line_step = axes.line_step(src), to_step = axes.step(dst);
    // Of the first tap of the first output.
    const int origin = (src.rh - dst.rh - k.dh * (k.kh / 2)) * src.pitch + (src.rw - dst.rw - k.dw * (k.kw / 2));
#pragma unroll 1
    for (unsigned task = unsigned(tid); task < lines * groups * unsigned(channels); task += unsigned(threads)) {
      const unsigned rest = task / lines, of_channel = rest / groups;
      const int line = across.begin + int(task - rest * lines), c = int(of_channel);
      const int first = along.begin + int(rest - of_channel * groups) * kOutputs;
      const A* const weights = shared + p.weight_first + c * p.weight_plane + op.weights;
      const A bias = load_shared(weights + axes.lines * axes.padded);
      A sum[kOutputs];
#pragma unroll
      for (A& s : sum) s = bias;
      const A* from = shared + src.first + c * src.plane + origin + line * line_step + first * step;
#pragma unroll 1
      for (int u = 0; u < axes.lines; ++u, from += axes.line_dilation * line_step) {
        if (axes.dilation == 1) {
          add_line(sum, from, step, weights + u * axes.padded, axes.taps);
        } else {
          add_dilated_line(sum, from, step, axes.dilation, weights + u * axes.padded, axes.taps);
        }
      }
      if (op.addend != StripsAddend::kNone) {
        const StripsMap& map = op.addend == StripsAddend::kMap ? p.map[op.addend_map] : dst;
        const A* const addend = shared + map.first + c * map.plane + (map.rh - dst.rh) * map.pitch + (map.rw - dst.rw) +
                                line * axes.line_step(map) + first * axes.step(map);
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) sum[i] += load_shared(addend + i * axes.step(map));
      }
      A* const to = shared + dst.first + c * dst.plane + line * axes.line_step(dst) + first * to_step;
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        if (first + i < along.end) store_shared(to + i * to_step, sum[i]);
      }
    }
  }

  GCN_DEVICE void dot(const StripsOp& op) const {
    const StripsMap &x = p.map[op.src], &g = p.map[op.dst];
    const StripsKernel& k = p.kernel[op.kernel];
    const StripsAxes axes(k);
    const int rows = min(p.tile_h, p.h - row0), cols = min(p.tile_w, p.w - col0);
    const int along = axes.down ? rows : cols, across = axes.down ? cols : rows;
    const int pieces = (along + kStripsGroup - 1) / kStripsGroup * across;  // groups of pixels
    const int chunks = axes.padded / kStripsGroup;                          // of taps
    const int items = op.weight ? channels * axes.lines * chunks : 0, all = items + (op.bias ? channels : 0);
    const A* const g_core = shared + g.first + g.rh * g.pitch + g.rw;
    const A* const x_core = shared + x.first + (x.rh - k.dh * (k.kh / 2)) * x.pitch + (x.rw - k.dw * (k.kw / 2));
    A* const scratch = shared + p.scratch;
#pragma unroll 1
    for (int task = warp; task < all * op.splits; task += warps) {
      const int split = task % op.splits, item = task / op.splits;
      const int chunk = item % chunks, u = item / chunks % axes.lines;
      const int c = item < items ? item / chunks / axes.lines : item - items;
      const int first_tap = chunk * kStripsGroup;
      A sum[kStripsGroup] = {};
#pragma unroll 1
      for (int piece = split * kStripsWarp + lane; piece < pieces; piece += kStripsWarp * op.splits) {
        const int line = piece % across, first = piece / across * kStripsGroup, count = min(kStripsGroup, along - first);
        const A* const from = g_core + c * g.plane + line * axes.line_step(g) + first * axes.step(g);
        if (item < items) {
          const A* const inputs = x_core + c * x.plane + (line + u * axes.line_dilation) * axes.line_step(x) +
                                  (first + first_tap * axes.dilation) * axes.step(x);
          add_products(sum, from, axes.step(g), count, inputs, axes.step(x), axes.dilation,
                       min(kStripsGroup, axes.taps - first_tap));
        } else {
          for (int i = 0; i < count; ++i) sum[0] += load_shared(from + i * axes.step(g));
        }
      }
      const A total = sum_over_warp(sum, lane);
      if (lane % 4 == 0) store_shared(scratch + task * kStripsGroup + lane / 4, total);
    }
    __syncthreads();

    A* const to = static_cast<A*>(p.partial) + (part * p.c + channel0) * p.sums + op.sums;
    const int taps = axes.lines * axes.taps, of_weight = op.weight ? taps : 0;
    for (int i = tid; i < channels * (of_weight + op.bias); i += threads) {
      const int c = i / (of_weight + op.bias), at = i % (of_weight + op.bias);
      const int u = at / axes.taps, t = at % axes.taps;
      const int item = at < of_weight ? (c * axes.lines + u) * chunks + t / kStripsGroup : items + c;
      const int place = at < of_weight ? t % kStripsGroup : 0;
      A total = 0;
      for (int split = 0; split < op.splits; ++split) {
        total += load_shared(scratch + (item * op.splits + split) * kStripsGroup + place);
      }
      to[int64_t(c) * p.sums + (at < of_weight ? axes.natural(u, t) : at)] = total;
    }
  }

  const StripsTile& p;
  A* const shared;
  const int tid, threads, lane, warp, warps;
  int64_t n = 0, part = 0;
  int row0 = 0, col0 = 0, channel0 = 0, channels = 0;
};

template <class E>
__global__ void __launch_bounds__(kStripsMostThreads, 1) strips_tile_kernel(GCN_PARAMS StripsTile p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  StripsBlock<E> block(p, reinterpret_cast<Accumulator<E>*>(shared));
  const int64_t units = int64_t(p.n) * p.groups * p.tiles_h * p.tiles_w;
#pragma unroll 1
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) block.run(unit);
}

template <class E>
int launch_strips_tile(const StripsTile& p, int64_t blocks, int threads, int shared_bytes, Stream s) {
  const Launch how{dim3(unsigned(blocks)), threads, size_t(shared_bytes), s.stream, s.dependent};
  return launch(strips_tile_kernel<E>, how, p);
}

}  // namespace gcn::cuda
