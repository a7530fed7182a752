// The doubling of each channel by itself, from device memory. A thread goes down a strip of rows, with the pixels around it and
// the taps in registers:
//
//   forward    a new row of x, kCols + 2 pixels, makes 2 x 2 kCols outputs of the pixels of the row before
//   backward   two new rows of dy, 2 kCols + 2 outputs each, make the gradient of kCols pixels and are added to the sums of all
//              taps, which the block adds up
//
// Where maps allow it kCols is 2, and pixels are read two, outputs read and written four at a time. In NCHW a row of two pixels
// is about 115 instructions forward and 217 backward: on an H200 more than bytes take in 16 bits, about as much in float32.
#pragma once

#include <algorithm>

#include "upsample_maps.cuh"
#include "upsample_positions.cuh"

namespace gcn::cuda {

// So many numbers at once, from or to memory.
template <class E, int kCount>
GCN_DEVICE void load_run(E (&values)[kCount], const E* from) {
  const PixelRun<E, kCount> run = load_global(reinterpret_cast<const PixelRun<E, kCount>*>(from));
  memcpy(values, &run, sizeof(values));
}
template <class E, int kCount>
GCN_DEVICE void store_run(const E (&values)[kCount], E* to) {
  PixelRun<E, kCount> run;
  memcpy(&run, values, sizeof(values));
  store_global(reinterpret_cast<PixelRun<E, kCount>*>(to), run);
}

// kCount numbers of a row from column `first` on, which is where `from` points to, of `w`; zeros outside. kRuns: all but the
// first and the last, which are all inside or all outside, are one access.
template <bool kRuns, class E, int kCount>
GCN_DEVICE void load_row(Accumulator<E> (&values)[kCount], const E* from, int64_t stride, bool inside, int first, int w) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = 0;
  if (!inside) return;
  if constexpr (kRuns) {
    E inner[kCount - 2] = {};
    if (first + 1 < w) load_run(inner, from + 1);
#pragma unroll
    for (int i = 0; i < kCount - 2; ++i) values[i + 1] = to_float(inner[i]);
  }
#pragma unroll
  for (int i = 0; i < kCount; i += kRuns ? kCount - 1 : 1) {
    if (first + i >= 0 && first + i < w) values[i] = to_float(from[kRuns ? i : i * stride]);
  }
}

// A strip of pixels: its image, channel, first row and column.
struct UpsampleStrip {
  int64_t n;
  int c, row, col;
};

// The element of a map at a row and a column of a strip's image and channel; neither need exist.
template <class E>
GCN_DEVICE E* element_of(const StridedMap& map, const UpsampleStrip& s, int row, int col) {
  const int64_t offset = s.n * map.stride_n + s.c * map.stride_c + row * map.stride_h + col * map.stride_w;
  return static_cast<E*>(const_cast<void*>(map.data)) + offset;
}

template <class E, int kCols>
GCN_DEVICE void double_strip(const UpsampleDirect& p, const UpsampleStrip& s) {
  using A = Accumulator<E>;
  constexpr bool kRuns = kCols > 1;
  A taps[4][4], above[kCols + 2], here[kCols + 2], below[kCols + 2];
  load_taps<E>(taps, static_cast<const E*>(p.weight) + int64_t(s.c) * p.k * p.k, p.k);
  const A bias = p.bias ? A(to_float(static_cast<const E*>(p.bias)[s.c])) : A(0);
  const E* next = element_of<E>(p.x, s, s.row - 1, s.col - 1);
  const E* added = element_of<E>(p.add, s, 2 * s.row, 2 * s.col);
  E* to = element_of<E>(p.out, s, 2 * s.row, 2 * s.col);
  const auto load = [&](A(&row)[kCols + 2], int at_h) {
    load_row<kRuns>(row, next, p.x.stride_w, at_h >= 0 && at_h < p.h, s.col - 1, p.w);
    next += p.x.stride_h;
  };
  load(above, s.row - 1), load(here, s.row);
  const int end = min(s.row + p.strip, (p.yh + 1) / 2);
#pragma unroll 1
  for (int row = s.row; row < end; ++row) {
    load(below, row + 1);
#pragma unroll
    for (int odd = 0; odd < 2; ++odd, to += p.out.stride_h, added += p.add.stride_h) {
      E results[2 * kCols];
#pragma unroll
      for (int col = 0; col < 2 * kCols; ++col) {
        // The two rows of x that are near, and the two columns; the tap of the farther is the outer one.
        A sum = bias;
#pragma unroll
        for (int far_h = 0; far_h < 2; ++far_h)
#pragma unroll
          for (int far_w = 0; far_w < 2; ++far_w) {
            const int tap_h = far_h ? 3 - 3 * odd : 1 + odd, tap_w = far_w ? 3 - 3 * (col % 2) : 1 + col % 2;
            const int at = 1 + col / 2 + (far_w ? 2 * (col % 2) - 1 : 0);
            const A value = !far_h ? here[at] : odd ? below[at] : above[at];
            if (upsample_has(p.k, tap_h, tap_w)) sum += value * taps[tap_h][tap_w];
          }
        results[col] = from_float<E>(sum);
      }
      if (2 * row + odd >= p.yh) continue;
      const int kept = min(p.yw - 2 * s.col, 2 * kCols);
      if (p.add.data) {
        E others[2 * kCols] = {};
        if constexpr (kRuns) {
          load_run(others, added);
        } else {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (i < kept) others[i] = added[i * p.add.stride_w];
          }
        }
#pragma unroll
        for (int i = 0; i < 2 * kCols; ++i) results[i] = from_float<E>(to_float(others[i]) + to_float(results[i]));
      }
      if constexpr (kRuns) {
        store_run(results, to);
      } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (i < kept) to[i * p.out.stride_w] = results[i];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kCols + 2; ++i) above[i] = here[i], here[i] = below[i];
  }
}

// Grid: x = (image, channel, strip, columns), where channels are next to each other the channel last.
template <class E>
__global__ void __launch_bounds__(kUpsampleDirectThreads, kUpsampleDirectResident<E>)
    upsample_single_forward_kernel(GCN_PARAMS UpsampleDirect p) {
  launch_dependents();
  wait_for_dependencies();
  const bool channels_last = p.out.stride_c == 1 && p.out.stride_w != 1;
  const bool runs = in_runs<E, 2>(p.x, p.w) && in_runs<E, 4>(p.out, p.yw) && (!p.add.data || in_runs<E, 4>(p.add, p.yw));
  const int cols = (p.yw + 1) / 2 / (runs ? 2 : 1), strips = ((p.yh + 1) / 2 + p.strip - 1) / p.strip;
  const int64_t count = int64_t(p.n) * p.c * strips * cols;
  for (int64_t i = int64_t(blockIdx.x) * kUpsampleDirectThreads + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kUpsampleDirectThreads) {
    Digits digits{i};
    UpsampleStrip s;
    if (channels_last) s.c = digits.next(p.c);
    s.col = digits.next(cols) * (runs ? 2 : 1), s.row = digits.next(strips) * p.strip;
    if (!channels_last) s.c = digits.next(p.c);
    s.n = digits.rest;
    if (runs) {
      double_strip<E, 2>(p, s);
    } else {
      double_strip<E, 1>(p, s);
    }
  }
}

template <class E, int kCols>
GCN_DEVICE void strip_gradients(Accumulator<E> (&sums)[kUpsampleSums], const UpsampleDirect& p, const UpsampleStrip& s) {
  using A = Accumulator<E>;
  constexpr bool kRuns = kCols > 1;
  constexpr int kAround = 2 * kCols + 2;
  A taps[4][4], dy[4][kAround];
  load_taps<E>(taps, static_cast<const E*>(p.weight) + int64_t(s.c) * p.k * p.k, p.k);
  const int first = 2 * s.col - 1;
  const E* next = element_of<E>(p.dy, s, 2 * s.row - 1, first);
  const E* of_x = element_of<E>(p.x, s, s.row, s.col);
  E* to = element_of<E>(p.out, s, s.row, s.col);
  const auto load = [&](A(&row)[kAround], int at_h) {
    load_row<kRuns>(row, next, p.dy.stride_w, at_h >= 0 && at_h < p.yh, first, p.yw);
    next += p.dy.stride_h;
  };
  load(dy[0], 2 * s.row - 1), load(dy[1], 2 * s.row);
  const int end = min(s.row + p.strip, p.h);
#pragma unroll 1
  for (int row = s.row; row < end; ++row, of_x += p.x.stride_h, to += p.out.stride_h) {
    load(dy[2], 2 * row + 1), load(dy[3], 2 * row + 2);
    if (p.partial) {
      E pixels[kCols] = {};
      load_run(pixels, of_x);
#pragma unroll
      for (int col = 0; col < kCols; ++col)
#pragma unroll
        for (int tap_w = 0; tap_w < 4; ++tap_w) {
          // Where dy is not, there is no product: with a zero, what is not finite would be nan.
          const int at_w = first + 2 * col + tap_w;
          const A value = at_w >= 0 && at_w < p.yw ? A(to_float(pixels[col])) : A(0);
#pragma unroll
          for (int tap_h = 0; tap_h < 4; ++tap_h) {
            const int at_h = 2 * row - 1 + tap_h;
            if (at_h >= 0 && at_h < p.yh) sums[tap_h * 4 + tap_w] += value * dy[tap_h][2 * col + tap_w];
          }
        }
    }
    if (p.wants_dx) {
      E results[kCols];
#pragma unroll
      for (int col = 0; col < kCols; ++col) {
        A sum = 0;
#pragma unroll
        for (int tap = 0; tap < 16; ++tap) {
          if (upsample_has(p.k, tap / 4, tap % 4)) sum += taps[tap / 4][tap % 4] * dy[tap / 4][2 * col + tap % 4];
        }
        results[col] = from_float<E>(sum);
      }
      store_run(results, to);
    }
#pragma unroll
    for (int i = 0; i < kAround; ++i) {
      if (i > 0 && i < kAround - 1) sums[16] += dy[1][i] + dy[2][i];
      dy[0][i] = dy[2][i], dy[1][i] = dy[3][i];
    }
  }
}

// Grid: x = (part, channel).
template <class E>
__global__ void __launch_bounds__(kUpsampleDirectThreads, kUpsampleDirectResident<E>)
    upsample_single_backward_kernel(GCN_PARAMS UpsampleDirect p) {
  using A = Accumulator<E>;
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const bool runs = (!p.partial || in_runs<E, 2>(p.x, p.w)) && (!p.wants_dx || in_runs<E, 2>(p.out, p.w)) &&
                    in_runs<E, 4>(p.dy, p.yw) && p.w % 2 == 0;
  const int tid = int(threadIdx.x), parts_of_image = int(p.parts / p.n), cols = p.w / (runs ? 2 : 1);
  for (int64_t i = blockIdx.x; i < p.parts * p.c; i += gridDim.x) {
    const int64_t part = i / p.c;
    const int row0 = int(part % parts_of_image) * p.part_rows, rows = min(p.part_rows, p.h - row0);
    UpsampleStrip s;
    s.n = part / parts_of_image, s.c = int(i % p.c);
    A sums[kUpsampleSums] = {};
    for (PixelWalk at(tid, kUpsampleDirectThreads, cols); at.row * p.strip < rows; at.next()) {
      s.row = row0 + at.row * p.strip, s.col = at.col * (runs ? 2 : 1);
      if (runs) {
        strip_gradients<E, 2>(sums, p, s);
      } else {
        strip_gradients<E, 1>(sums, p, s);
      }
    }
    if (!p.wants_sums) continue;
    const A sum = sum_of_each(sums, reinterpret_cast<A*>(shared));
    if (tid < 16 && p.partial && upsample_has(p.k, tid / 4, tid % 4)) {
      const int64_t before = part * p.k * p.k + upsample_tap_at(p.k, tid / 4, tid % 4);
      static_cast<A*>(p.partial)[before * p.c + s.c] = sum;
    }
    if (tid == 16 && p.partial_bias) static_cast<A*>(p.partial_bias)[part * p.c + s.c] = sum;
  }
}

template <class E>
int launch_upsample_single_forward(const UpsampleDirect& p, Stream s) {
  const int64_t strips = ((p.yh + 1) / 2 + p.strip - 1) / p.strip, count = int64_t(p.n) * p.c * strips * ((p.yw + 1) / 2);
  const int64_t blocks = std::min((count + kUpsampleDirectThreads - 1) / kUpsampleDirectThreads, kUpsampleDirectBlocks);
  const Launch how{dim3(unsigned(blocks)), kUpsampleDirectThreads, 0, s.stream, s.dependent};
  return launch(upsample_single_forward_kernel<E>, how, p);
}

template <class E>
int launch_upsample_single_backward(const UpsampleDirect& p, Stream s) {
  const int64_t blocks = std::min(p.parts * p.c, kUpsampleDirectBlocks);
  const size_t shared_bytes = kUpsampleDirectThreads / 32 * kUpsampleSums * sizeof(Accumulator<E>);
  const Launch how{dim3(unsigned(blocks)), kUpsampleDirectThreads, shared_bytes, s.stream, s.dependent};
  return launch(upsample_single_backward_kernel<E>, how, p);
}

}  // namespace gcn::cuda
