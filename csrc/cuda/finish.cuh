// The last launch of a backward pass: adds what the launches before left in parts, in a fixed order, and writes the gradients in
// their own layout and type.
//
//   weight    dW[a, b, t] = sum over splits of partial[split][a][column of (b, t)]     of weight_grad.cuh; a thread each
//   bias      db[c]       = sum over parts of partial[c][part]    of prepare.cuh (dy) and line_conv.cuh (du); a block each
//
// Neighbouring threads read neighbouring numbers. Bound by reading the parts, which the launches before have just left in L2.
#pragma once

#include <algorithm>

#include "block_sum.cuh"
#include "direct.cuh"
#include "kernels.h"
#include "tiles.h"

namespace gcn::cuda {

GCN_DEVICE bool is_finite(float x) {
  constexpr float kLargest = 3.402823466e+38f;
  return x <= kLargest && x >= -kLargest;
}

// One element of the gradient by its definition, without what lies outside the image. If no value of either map explains why
// the products' sum was not finite, that sum stands.
template <class E>
GCN_DEVICE float sum_inside(const FinishWeightGrad& j, int a, int b, int tap, float products) {
  const int shift_h = j.axis == 0 ? tap - j.kernel / 2 : 0, shift_w = j.axis == 1 ? tap - j.kernel / 2 : 0;
  float sum = 0;
  bool explained = false;
  for (int64_t pixel = 0; pixel < int64_t(j.n) * j.h * j.w; ++pixel) {
    const int w = int(pixel % j.w), h = int(pixel / j.w % j.h), other_w = w + shift_w, other_h = h + shift_h;
    const int64_t n = pixel / j.w / j.h;
    const float of_a = to_float(map_at<E>(j.a, n, h, w)[a * j.a.stride_c]);
    explained = explained || !is_finite(of_a) || !is_finite(to_float(map_at<E>(j.b, n, h, w)[b * j.b.stride_c]));
    if (other_h < 0 || other_h >= j.h || other_w < 0 || other_w >= j.w) continue;
    sum += of_a * to_float(map_at<E>(j.b, n, other_h, other_w)[b * j.b.stride_c]);
    if (sum != sum) return sum;  // and stays so
  }
  return explained ? sum : products;
}

// A value that is not finite has met zeros around the image, which is nan where a convolution has nothing: such sums are done
// again.
template <class E>
GCN_DEVICE void finish_weight(const FinishWeightGrad& j) {
  const int octets = (j.channels_b + kOctet - 1) / kOctet;
  const int64_t count = int64_t(j.channels_a) * octets * j.kernel * kOctet;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const int tap = int(i / kOctet % j.kernel), octet = int(i / kOctet / j.kernel % octets);
    const int a = int(i / kOctet / j.kernel / octets), b = octet * kOctet + int(i % kOctet), packed_tap = tap - j.skipped;
    if (b >= j.channels_b) continue;
    float sum = 0;  // taps that only ever touch the padding have no gradient
    if (packed_tap >= 0 && packed_tap < j.taps) {
      const int64_t block = j.first_block + int64_t(octet) * j.taps + packed_tap;
#pragma unroll 8
      for (int split = 0; split < j.splits; ++split) {
        sum += j.partial[((int64_t(split) * j.channels_a + a) * j.blocks_per_row + block) * kOctet + i % kOctet];
      }
      if (!is_finite(sum)) sum = sum_inside<E>(j, a, b, tap, sum);
    }
    static_cast<E*>(j.out)[a * j.stride_a + b * j.stride_b + (j.flip ? j.kernel - 1 - tap : tap)] = from_float<E>(sum);
  }
}

template <class E>
GCN_DEVICE void finish_bias(const FinishBiasGrad& j, unsigned char* shared) {
  using A = Accumulator<E>;
  for (int channel = blockIdx.x; channel < j.channels; channel += int(gridDim.x)) {
    const A* partial = static_cast<const A*>(j.partial) + int64_t(channel) * j.parts;
    A sum = 0;
    for (int part = threadIdx.x; part < j.parts; part += kThreads) sum += partial[part];
    sum = sum_over_threads(sum, reinterpret_cast<A*>(shared), kThreads, 1);
    for (void* out : j.out) {
      if (out && threadIdx.x == 0) static_cast<E*>(out)[channel] = from_float<E>(sum);
    }
  }
}

// Grid: x = shares of the largest gradient, y = gradients of weights, then of biases.
template <class E>
__global__ void __launch_bounds__(kThreads) finish_kernel(GCN_PARAMS FinishParams p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const int job = int(blockIdx.y);
  if (job >= p.weights) return finish_bias<E>(p.bias[job - p.weights], shared);
  if constexpr (sizeof(E) < 8) finish_weight<E>(p.weight[job]);  // float64 has the direct kernels, which leave nothing to add
}

template <class E>
int launch_finish(const FinishParams& p, Stream s) {
  int64_t most = 1;
  for (int i = 0; i < p.weights; ++i) {
    const FinishWeightGrad& j = p.weight[i];
    most = std::max(most, int64_t(j.channels_a) * ((j.channels_b + kOctet - 1) / kOctet) * kOctet * j.kernel);
  }
  for (int i = 0; i < p.biases; ++i) most = std::max(most, int64_t(p.bias[i].channels) * kThreads);
  const unsigned blocks = unsigned(std::min<int64_t>((most + kThreads - 1) / kThreads, 4096));
  const Launch how{dim3(blocks, p.weights + p.biases), kThreads, kThreads * sizeof(Accumulator<E>), s.stream, s.dependent};
  return launch(finish_kernel<E>, how, p);
}

}  // namespace gcn::cuda
