// The block by its definition, one sum per thread or block: for float64, and for sizes that the tensor core kernels do not take.
//
//   conv         out[p, o]     = sum over terms, inputs, taps of map[p + tap, i] w[o, i, tap] + biases
//   weight grad  dW[a, b, tap] = sum over pixels of A[p, a] B[p + tap, b]
//
// Sums are kept in fp32 (fp64 for fp64), in a fixed order, those of an input's taps apart: of thousands of terms added one by
// one, float64 was further off than PyTorch's convolutions. Bound by L1: two loads for each multiplication.
#pragma once

#include <algorithm>

#include "../block_sum.cuh"
#include "../device.cuh"
#include "kernels.h"

namespace gcn::cuda {

constexpr int kDirectThreads = 128;

template <class E>
GCN_DEVICE const E* map_at(const StridedMap& m, int64_t n, int64_t h, int64_t w) {
  return static_cast<const E*>(m.data) + (n * m.stride_n + h * m.stride_h + w * m.stride_w);
}

// Grid: x = (pixel, output), outputs fastest where they are contiguous.
template <class E>
__global__ void __launch_bounds__(kDirectThreads) direct_conv_kernel(GCN_PARAMS DirectConv p) {
  using A = Accumulator<E>;
  launch_dependents();
  wait_for_dependencies();
  const int64_t pixels = int64_t(p.n) * p.h * p.w, count = pixels * p.outputs_written;
  for (int64_t i = int64_t(blockIdx.x) * kDirectThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kDirectThreads) {
    const bool channels_last = p.stride_c == 1;
    const int64_t pixel = channels_last ? i / p.outputs_written : i % pixels;
    const int o = int(channels_last ? i % p.outputs_written : i / pixels);
    const int w = int(pixel % p.w), h = int(pixel / p.w % p.h);
    const int64_t n = pixel / p.w / p.h;
    A sum = 0;
    for (int term = 0; term < p.terms && o < p.outputs; ++term) {
      const DirectConv::Term& t = p.term[term];
      const int at = t.axis == 0 ? h : w, length = t.axis == 0 ? p.h : p.w, radius = t.kernel / 2;
      const int64_t step = t.axis == 0 ? t.map.stride_h : t.map.stride_w;
      const E* here = map_at<E>(t.map, n, h, w);
      for (int input = 0; input < t.inputs; ++input) {
        const auto& of = t.weights;
        const E* weights = static_cast<const E*>(of.data) + (o * of.output_stride + input * of.input_stride);
        A of_input = 0;
        for (int tap = max(0, radius - at); tap < min(t.kernel, length - at + radius); ++tap) {
          const E weight = weights[(t.flip ? t.kernel - 1 - tap : tap) * of.tap_stride];
          of_input += A(to_float(here[input * t.map.stride_c + (tap - radius) * step])) * to_float(weight);
        }
        sum += of_input;
      }
      if (t.bias) sum += to_float(static_cast<const E*>(t.bias)[o]);
    }
    static_cast<E*>(p.out)[n * p.stride_n + h * p.stride_h + w * p.stride_w + o * p.stride_c] = from_float<E>(sum);
  }
}

// Grid: x = element of the gradient.
template <class E>
__global__ void __launch_bounds__(kDirectThreads) direct_weight_grad_kernel(GCN_PARAMS DirectWeightGrad p) {
  using A = Accumulator<E>;
  GCN_DYNAMIC_SHARED(shared);
  A* sums = reinterpret_cast<A*>(shared);
  launch_dependents();
  wait_for_dependencies();
  const int64_t pixels = int64_t(p.n) * p.h * p.w, count = int64_t(p.channels_a) * p.channels_b * p.kernel;
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const int tap = int(i % p.kernel), b = int(i / p.kernel % p.channels_b), a = int(i / p.kernel / p.channels_b);
    const int shift = tap - p.kernel / 2;
    A sum = 0;
    for (int64_t pixel = threadIdx.x; pixel < pixels; pixel += kDirectThreads) {
      const int w = int(pixel % p.w), h = int(pixel / p.w % p.h);
      const int64_t n = pixel / p.w / p.h;
      const int shifted_h = p.axis == 0 ? h + shift : h, shifted_w = p.axis == 1 ? w + shift : w;
      if (shifted_h < 0 || shifted_h >= p.h || shifted_w < 0 || shifted_w >= p.w) continue;
      sum += A(to_float(map_at<E>(p.a, n, h, w)[a * p.a.stride_c])) *
             to_float(map_at<E>(p.b, n, shifted_h, shifted_w)[b * p.b.stride_c]);
    }
    sum = sum_over_threads(sum, sums, kDirectThreads, 1);
    if (threadIdx.x == 0) {
      const auto& out = p.out;
      const int64_t to = a * out.output_stride + b * out.input_stride + (p.flip ? p.kernel - 1 - tap : tap) * out.tap_stride;
      static_cast<E*>(out.data)[to] = from_float<E>(sum);
    }
  }
}

constexpr int64_t kDirectBlocks = 1 << 16;  // at most; the kernels loop

template <class E>
int launch_direct_conv(const DirectConv& p, Stream s) {
  const int64_t count = int64_t(p.n) * p.h * p.w * p.outputs_written, blocks = (count + kDirectThreads - 1) / kDirectThreads;
  const Launch how{dim3(unsigned(std::min(blocks, kDirectBlocks))), kDirectThreads, 0, s.stream, s.dependent};
  return launch(direct_conv_kernel<E>, how, p);
}

template <class E>
int launch_direct_weight_grad(const DirectWeightGrad& p, Stream s) {
  const int64_t count = int64_t(p.channels_a) * p.channels_b * p.kernel;
  const Launch how{dim3(unsigned(std::min(count, kDirectBlocks))), kDirectThreads, kDirectThreads * sizeof(double), s.stream,
                   s.dependent};
  return launch(direct_weight_grad_kernel<E>, how, p);
}

}  // namespace gcn::cuda
