// The doubling from device memory, for channels of which no tile fits in shared memory.
//
//   forward    a thread has four pixels of x below each other, and so eight rows of two outputs, of one output channel
//   backward   a block has some rows of pixels of a channel of x: a thread reads the outputs that a pixel reaches, for its
//              gradient and for the sums of all taps, which the block adds up
//
// Bound by L1, with a load for one to four multiply-adds.
#pragma once

#include <algorithm>

#include "upsample_positions.cuh"

namespace gcn::cuda {

constexpr int kUpsampleDirectPixels = 4;

// Grid: x = (image, output channel, four rows of pixels, column), where channels are next to each other the channel last.
template <class E>
__global__ void __launch_bounds__(kUpsampleDirectThreads, kUpsampleDirectResident<E>)
    upsample_direct_forward_kernel(GCN_PARAMS UpsampleDirect p) {
  using A = Accumulator<E>;
  launch_dependents();
  wait_for_dependencies();
  const bool channels_last = p.out.stride_c == 1 && p.out.stride_w != 1;
  const int rows = ((p.yh + 1) / 2 + kUpsampleDirectPixels - 1) / kUpsampleDirectPixels, cols = (p.yw + 1) / 2;
  const int64_t count = int64_t(p.n) * p.o * rows * cols;
  for (int64_t i = int64_t(blockIdx.x) * kUpsampleDirectThreads + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kUpsampleDirectThreads) {
    Digits digits{i};
    int o = channels_last ? digits.next(p.o) : 0;
    const int w = digits.next(cols), h = digits.next(rows) * kUpsampleDirectPixels;
    if (!channels_last) o = digits.next(p.o);
    const int64_t n = digits.rest;
    const A bias = p.bias ? A(to_float(static_cast<const E*>(p.bias)[o])) : A(0);
    A sums[kUpsampleDirectPixels][2][2];
#pragma unroll
    for (int r = 0; r < kUpsampleDirectPixels; ++r) sums[r][0][0] = sums[r][0][1] = sums[r][1][0] = sums[r][1][1] = bias;
#pragma unroll 1
    for (int c = 0; c < p.c; ++c) {
      A taps[4][4];
      load_taps<E>(taps, static_cast<const E*>(p.weight) + (int64_t(c) * p.o + o) * p.k * p.k, p.k);
      const E* const image = static_cast<const E*>(p.x.data) + (n * p.x.stride_n + c * p.x.stride_c);
#pragma unroll
      for (int row = -1; row <= kUpsampleDirectPixels; ++row)
#pragma unroll
        for (int shift_w = -1; shift_w <= 1; ++shift_w) {
          const int at_h = h + row, at_w = w + shift_w;
          if (at_h < 0 || at_h >= p.h || at_w < 0 || at_w >= p.w) continue;
          const A value = A(to_float(image[at_h * p.x.stride_h + at_w * p.x.stride_w]));
#pragma unroll
          for (int shift_h = -1; shift_h <= 1; ++shift_h) {
            const int r = row - shift_h;
            if (r < 0 || r >= kUpsampleDirectPixels) continue;
#pragma unroll
            for (int phase = 0; phase < 4; ++phase) {
              const int tap_h = phase / 2 + 1 - 2 * shift_h, tap_w = phase % 2 + 1 - 2 * shift_w;
              if (tap_h < 0 || tap_h > 3 || tap_w < 0 || tap_w > 3) continue;
              if (upsample_has(p.k, tap_h, tap_w)) sums[r][phase / 2][phase % 2] += value * taps[tap_h][tap_w];
            }
          }
        }
    }
    E* const out = static_cast<E*>(const_cast<void*>(p.out.data)) + (n * p.out.stride_n + o * p.out.stride_c);
    const E* const added = static_cast<const E*>(p.add.data) + (n * p.add.stride_n + o * p.add.stride_c);
#pragma unroll
    for (int r = 0; r < 2 * kUpsampleDirectPixels; ++r)
#pragma unroll
      for (int col = 0; col < 2; ++col) {
        const int at_h = 2 * h + r, at_w = 2 * w + col;
        if (at_h >= p.yh || at_w >= p.yw) continue;
        E value = from_float<E>(sums[r / 2][r % 2][col]);
        if (p.add.data) {
          value = from_float<E>(to_float(added[at_h * p.add.stride_h + at_w * p.add.stride_w]) + to_float(value));
        }
        out[at_h * p.out.stride_h + at_w * p.out.stride_w] = value;
      }
  }
}

// Where an output is in dy, or null outside of it.
template <class E>
GCN_DEVICE const E* upsample_output_at(const UpsampleDirect& p, const E* image, int at_h, int at_w) {
  if (at_h < 0 || at_h >= p.yh || at_w < 0 || at_w >= p.yw) return nullptr;
  return image + (at_h * p.dy.stride_h + at_w * p.dy.stride_w);
}

// Grid: x = (part, channel of x).
template <class E>
__global__ void __launch_bounds__(kUpsampleDirectThreads, kUpsampleDirectResident<E>)
    upsample_direct_backward_kernel(GCN_PARAMS UpsampleDirect p) {
  using A = Accumulator<E>;
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const int tid = int(threadIdx.x), parts_of_image = int(p.parts / p.n);
  for (int64_t i = blockIdx.x; i < p.parts * p.c; i += gridDim.x) {
    const int c = int(i % p.c);
    const int64_t part = i / p.c, n = part / parts_of_image;
    const int row0 = int(part % parts_of_image) * p.part_rows, pixels = min(p.part_rows, p.h - row0) * p.w;
    const E* const x = static_cast<const E*>(p.x.data) + (n * p.x.stride_n + c * p.x.stride_c);
    E* const dx = static_cast<E*>(const_cast<void*>(p.out.data)) + (n * p.out.stride_n + c * p.out.stride_c);
    if (p.wants_dx) {
      for (int pixel = tid; pixel < pixels; pixel += kUpsampleDirectThreads) {
        const int h = row0 + pixel / p.w, w = pixel % p.w;
        A sum = 0;
#pragma unroll 1
        for (int o = 0; o < p.o; ++o) {
          A taps[4][4];
          load_taps<E>(taps, static_cast<const E*>(p.weight) + (int64_t(c) * p.o + o) * p.k * p.k, p.k);
          const E* const dy = static_cast<const E*>(p.dy.data) + (n * p.dy.stride_n + o * p.dy.stride_c);
#pragma unroll
          for (int tap = 0; tap < 16; ++tap) {
            const E* const at = upsample_output_at(p, dy, 2 * h - 1 + tap / 4, 2 * w - 1 + tap % 4);
            if (at && upsample_has(p.k, tap / 4, tap % 4)) sum += taps[tap / 4][tap % 4] * A(to_float(*at));
          }
        }
        dx[h * p.out.stride_h + w * p.out.stride_w] = from_float<E>(sum);
      }
    }
    if (!p.wants_sums) continue;
#pragma unroll 1
    for (int o = 0; o < p.o; ++o) {
      const E* const dy = static_cast<const E*>(p.dy.data) + (n * p.dy.stride_n + o * p.dy.stride_c);
      A sums[kUpsampleSums] = {};
#pragma unroll 1
      for (int pixel = tid; pixel < pixels; pixel += kUpsampleDirectThreads) {
        const int h = row0 + pixel / p.w, w = pixel % p.w;
        const A of_x = p.partial ? A(to_float(x[h * p.x.stride_h + w * p.x.stride_w])) : A(0);
#pragma unroll
        for (int tap = 0; tap < 16; ++tap) {
          const E* const at = upsample_output_at(p, dy, 2 * h - 1 + tap / 4, 2 * w - 1 + tap % 4);
          if (!at) continue;
          const A value = A(to_float(*at));
          const bool own = (tap / 4 == 1 || tap / 4 == 2) && (tap % 4 == 1 || tap % 4 == 2);
          sums[tap] += of_x * value;
          if (own) sums[16] += value;
        }
      }
      const A sum = sum_of_each(sums, reinterpret_cast<A*>(shared));
      if (tid < 16 && p.partial && upsample_has(p.k, tid / 4, tid % 4)) {
        const int64_t before = part * p.k * p.k + upsample_tap_at(p.k, tid / 4, tid % 4);
        static_cast<A*>(p.partial)[(before * p.o + o) * p.c + c] = sum;
      }
      if (tid == 16 && p.partial_bias && c == 0) static_cast<A*>(p.partial_bias)[part * p.o + o] = sum;
    }
  }
}

template <class E>
int launch_upsample_direct_forward(const UpsampleDirect& p, Stream s) {
  const int64_t rows = ((p.yh + 1) / 2 + kUpsampleDirectPixels - 1) / kUpsampleDirectPixels;
  const int64_t count = int64_t(p.n) * p.o * rows * ((p.yw + 1) / 2);
  const int64_t blocks = std::min((count + kUpsampleDirectThreads - 1) / kUpsampleDirectThreads, kUpsampleDirectBlocks);
  const Launch how{dim3(unsigned(blocks)), kUpsampleDirectThreads, 0, s.stream, s.dependent};
  return launch(upsample_direct_forward_kernel<E>, how, p);
}

template <class E>
int launch_upsample_direct_backward(const UpsampleDirect& p, Stream s) {
  const int64_t blocks = std::min(p.parts * p.c, kUpsampleDirectBlocks);
  const size_t shared_bytes = kUpsampleDirectThreads / 32 * kUpsampleSums * sizeof(Accumulator<E>);
  const Launch how{dim3(unsigned(blocks)), kUpsampleDirectThreads, shared_bytes, s.stream, s.dependent};
  return launch(upsample_direct_backward_kernel<E>, how, p);
}

}  // namespace gcn::cuda
