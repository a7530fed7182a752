// What the kernels of all operators and their host code share: arithmetics, maps and weights with strides, and how a launch is
// asked for and fails. Needs neither CUDA nor PyTorch.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;  // what a cudaStream_t points to

namespace gcn::cuda {

// How products are made: of operands of which type, added up in float32, or in float64.
enum class Math : int { kHalf, kBFloat16, kTf32, kFloat, kDouble };
constexpr int element_bytes(Math math) { return math == Math::kDouble ? 8 : math == Math::kTf32 || math == Math::kFloat ? 4 : 2; }

constexpr int kOctet = 8;        // channels are padded to a multiple of this
constexpr int kPieceBytes = 16;  // what one asynchronous copy moves, and one row of a fragment

// Any map; strides in elements.
struct StridedMap {
  const void* data;
  int64_t stride_n, stride_c, stride_h, stride_w;
};

// A map of a kernel without tiles: an operator's, of the type that its maps are stored in, or one between its operations, of the
// accumulator's.
struct DirectMap {
  StridedMap map;
  bool stored;
};

// Weights: element (output channel, input channel, tap) at data[output * output_stride + input * input_stride + tap *
// tap_stride].
template <class Pointer>
struct WeightsAt {
  Pointer data;
  int64_t output_stride, input_stride, tap_stride;

  // As the gradient of their input sees them: outputs and inputs change places.
  WeightsAt turned() const { return {data, input_stride, output_stride, tap_stride}; }
};
using StridedWeights = WeightsAt<const void*>;
using StridedWeightGrad = WeightsAt<void*>;

// What was asked for by the launch of this thread that failed last.
struct FailedLaunch {
  const char* kernel;  // run_forward() and run_backward() know it
  unsigned grid[3];
  int threads, cluster;
  size_t shared_bytes;
};
inline thread_local FailedLaunch failed_launch = {};

// Each returns a cudaError_t as a number; 0 is success. Where it is another, `failed_launch` says more.
struct Stream {
  CUstream_st* stream;
  bool dependent;  // start before the previous kernel has ended (programmatic dependent launch), as the kernels allow
};

}  // namespace gcn::cuda
