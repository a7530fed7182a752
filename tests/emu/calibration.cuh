// One small kernel per wrapper of the device layer, run by one warp on fixed inputs. The emulator runs them in the tests; a GPU
// runs them once (calibration.py), and what it computes becomes the golden data that the emulator is held to.
//
// Every kernel maps one set of `input_bytes` to one set of `output_bytes`; block i handles set i.
#pragma once

#include <type_traits>

#include "device.cuh"

namespace gcn::cuda::calibration {

struct Case {
  const char* name;
  void (*kernel)(const unsigned char*, unsigned char*);
  size_t input_bytes, output_bytes;  // of one set
  size_t shared_bytes;
};

constexpr int kLanes = 32;

// The input and the output of this block, as arrays of T.
template <class T, int COUNT>
GCN_DEVICE const T* input_of(const unsigned char* in) {
  return reinterpret_cast<const T*>(in) + size_t(blockIdx.x) * COUNT;
}
template <class T, int COUNT>
GCN_DEVICE T* output_of(unsigned char* out) {
  return reinterpret_cast<T*>(out) + size_t(blockIdx.x) * COUNT;
}

// TILES 8 x 8 tiles of 16-bit elements -> the registers of each lane. Lanes name the rows in an order that mixes them, and the
// rows are 16 bytes further apart than they are long.
template <int TILES, bool TRANSPOSED>
__global__ void ldmatrix_kernel(const unsigned char* in, unsigned char* out) {
  constexpr int kRows = 8 * TILES, kPitch = 32;
  GCN_DYNAMIC_SHARED(shared);
  const int lane = threadIdx.x;
  if (lane < kRows) {
    store_shared(reinterpret_cast<uint4*>(shared + lane * kPitch), input_of<uint4, kRows>(in)[lane]);
  }
  __syncthreads();
  const unsigned char* row = shared + lane * 5 % kRows * kPitch;
  uint32_t registers[TILES];
  if constexpr (TILES == 4 && TRANSPOSED) ldmatrix_x4_trans(registers, row);
  if constexpr (TILES == 4 && !TRANSPOSED) ldmatrix_x4(registers, row);
  if constexpr (TILES == 2 && TRANSPOSED) ldmatrix_x2_trans(registers, row);
  if constexpr (TILES == 2 && !TRANSPOSED) ldmatrix_x2(registers, row);
  for (int i = 0; i < TILES; ++i) output_of<uint32_t, kLanes * TILES>(out)[lane * TILES + i] = registers[i];
}

// Registers a[4], b[2], d[4] of each lane -> d[4].
template <class T>
__global__ void mma_kernel(const unsigned char* in, unsigned char* out) {
  const uint32_t* mine = input_of<uint32_t, kLanes * 10>(in) + threadIdx.x * 10;
  const uint32_t a[4] = {mine[0], mine[1], mine[2], mine[3]}, b[2] = {mine[4], mine[5]};
  float d[4] = {float_of(mine[6]), float_of(mine[7]), float_of(mine[8]), float_of(mine[9])};
  mma(d, a, b, T());
  for (int i = 0; i < 4; ++i) output_of<float, kLanes * 4>(out)[threadIdx.x * 4 + i] = d[i];
}

// 16 bytes per lane -> the same 16 bytes of shared memory, which held 0x5A, after a copy of the first BYTES of them by two lanes
// of three and a copy of nothing by the third.
template <int BYTES>
__global__ void copy_async_kernel(const unsigned char* in, unsigned char* out) {
  GCN_DYNAMIC_SHARED(shared);
  uint4* slot = reinterpret_cast<uint4*>(shared) + threadIdx.x;
  store_shared(slot, make_uint4(0x5A5A5A5Au, 0x5A5A5A5Au, 0x5A5A5A5Au, 0x5A5A5A5Au));
  copy_async<BYTES>(slot, input_of<uint4, kLanes>(in) + threadIdx.x, threadIdx.x % 3 != 0);
  copy_commit();
  copy_wait<0>();
  output_of<uint4, kLanes>(out)[threadIdx.x] = load_shared(slot);
}

// Three groups of one copy each; lane l's bytes of group i arrive at lane l + 1, after a wait that leaves later groups in flight.
__global__ void copy_groups_kernel(const unsigned char* in, unsigned char* out) {
  GCN_DYNAMIC_SHARED(shared);
  uint4* slots = reinterpret_cast<uint4*>(shared);
  const int lane = threadIdx.x, neighbour = (lane + 1) % kLanes;
  for (int i = 0; i < 3; ++i) {
    copy_async<16>(slots + i * kLanes + lane, input_of<uint4, 3 * kLanes>(in) + i * kLanes + lane, true);
    copy_commit();
  }
  uint4* results = output_of<uint4, 3 * kLanes>(out);
  copy_wait<2>();
  __syncwarp();
  results[lane] = load_shared(slots + neighbour);
  copy_wait<1>();
  __syncwarp();
  results[kLanes + lane] = load_shared(slots + kLanes + neighbour);
  copy_wait<0>();
  __syncwarp();
  results[2 * kLanes + lane] = load_shared(slots + 2 * kLanes + neighbour);
}

// 16 bytes per lane go through shared memory as elements of T, in reversed order of lanes.
template <class T>
__global__ void shared_kernel(const unsigned char* in, unsigned char* out) {
  constexpr int kCount = kLanes * 16 / sizeof(T), kPerLane = 16 / sizeof(T);
  GCN_DYNAMIC_SHARED(shared);
  T* elements = reinterpret_cast<T*>(shared);
  for (int i = 0; i < kPerLane; ++i) {
    store_shared(elements + threadIdx.x * kPerLane + i, input_of<T, kCount>(in)[threadIdx.x * kPerLane + i]);
  }
  __syncthreads();
  const int from = kLanes - 1 - threadIdx.x;
  for (int i = 0; i < kPerLane; ++i) {
    output_of<T, kCount>(out)[threadIdx.x * kPerLane + i] = load_shared(elements + from * kPerLane + i);
  }
}

// A value per lane -> shuffle_xor by 1, 2, 4, 8, 16 and 21, then shuffle_down by 1, 2, 4, 8, 16 and 7.
template <class T>
__global__ void shuffle_kernel(const unsigned char* in, unsigned char* out) {
  const T value = input_of<T, kLanes>(in)[threadIdx.x];
  T* results = output_of<T, 12 * kLanes>(out) + threadIdx.x;
  for (int i = 0; i < 6; ++i) results[i * kLanes] = shuffle_xor(value, i < 5 ? 1 << i : 21);
  for (int i = 0; i < 6; ++i) results[(6 + i) * kLanes] = shuffle_down(value, i < 5 ? 1 << i : 7);
}

// fp32 -> T and back.
template <class T>
__global__ void narrow_kernel(const unsigned char* in, unsigned char* out) {
  output_of<T, kLanes>(out)[threadIdx.x] = from_float<T>(input_of<float, kLanes>(in)[threadIdx.x]);
}

template <class T>
__global__ void widen_kernel(const unsigned char* in, unsigned char* out) {
  output_of<float, kLanes>(out)[threadIdx.x] = to_float(input_of<T, kLanes>(in)[threadIdx.x]);
}

__global__ void round_to_tf32_kernel(const unsigned char* in, unsigned char* out) {
  output_of<uint32_t, kLanes>(out)[threadIdx.x] = round_to_tf32(input_of<uint32_t, kLanes>(in)[threadIdx.x]);
}

// Two launches: the first adds one, late; the second waits for it and doubles. The second runs in place on the first's output.
__global__ void first_of_two_kernel(const unsigned char* in, unsigned char* out) {
  launch_dependents();
  const uint32_t value = input_of<uint32_t, kLanes>(in)[threadIdx.x];
  uint32_t noise = value;
  for (int i = 0; i < 10000; ++i) noise = noise * 1664525u + 1013904223u;  // time for the second launch to come too early
  output_of<uint32_t, kLanes>(out)[threadIdx.x] = value + 1 + (noise == 0x12345678u && value == 0xFFFFFFFFu ? 1 : 0);
}

__global__ void second_of_two_kernel(const unsigned char*, unsigned char* out) {
  wait_for_dependencies();
  output_of<uint32_t, kLanes>(out)[threadIdx.x] *= 2;
}

inline constexpr Case kCases[] = {
    {"ldmatrix_x4", ldmatrix_kernel<4, false>, 32 * 16, kLanes * 16, 32 * 32},
    {"ldmatrix_x4_trans", ldmatrix_kernel<4, true>, 32 * 16, kLanes * 16, 32 * 32},
    {"ldmatrix_x2", ldmatrix_kernel<2, false>, 16 * 16, kLanes * 8, 16 * 32},
    {"ldmatrix_x2_trans", ldmatrix_kernel<2, true>, 16 * 16, kLanes * 8, 16 * 32},
    {"mma_half", mma_kernel<Half>, kLanes * 40, kLanes * 16, 0},
    {"mma_bfloat16", mma_kernel<BFloat16>, kLanes * 40, kLanes * 16, 0},
    {"mma_tf32", mma_kernel<Tf32>, kLanes * 40, kLanes * 16, 0},
    {"mma_fp32", mma_kernel<Fp32>, kLanes * 40, kLanes * 16, 0},
    {"copy_async_4", copy_async_kernel<4>, kLanes * 16, kLanes * 16, kLanes * 16},
    {"copy_async_8", copy_async_kernel<8>, kLanes * 16, kLanes * 16, kLanes * 16},
    {"copy_async_16", copy_async_kernel<16>, kLanes * 16, kLanes * 16, kLanes * 16},
    {"copy_groups", copy_groups_kernel, 3 * kLanes * 16, 3 * kLanes * 16, 3 * kLanes * 16},
    {"shared_2", shared_kernel<uint16_t>, kLanes * 16, kLanes * 16, kLanes * 16},
    {"shared_4", shared_kernel<uint32_t>, kLanes * 16, kLanes * 16, kLanes * 16},
    {"shared_8", shared_kernel<uint2>, kLanes * 16, kLanes * 16, kLanes * 16},
    {"shared_16", shared_kernel<uint4>, kLanes * 16, kLanes * 16, kLanes * 16},
    {"shuffle_float", shuffle_kernel<float>, kLanes * 4, 12 * kLanes * 4, 0},
    {"shuffle_double", shuffle_kernel<double>, kLanes * 8, 12 * kLanes * 8, 0},
    {"narrow_half", narrow_kernel<Half>, kLanes * 4, kLanes * 2, 0},
    {"narrow_bfloat16", narrow_kernel<BFloat16>, kLanes * 4, kLanes * 2, 0},
    {"widen_half", widen_kernel<Half>, kLanes * 2, kLanes * 4, 0},
    {"widen_bfloat16", widen_kernel<BFloat16>, kLanes * 2, kLanes * 4, 0},
    {"round_to_tf32", round_to_tf32_kernel, kLanes * 4, kLanes * 4, 0},
    {"dependent_launch", first_of_two_kernel, kLanes * 4, kLanes * 4, 0},
};

// Runs a case on `sets` sets. The pointers are the device's.
inline cudaError_t run(const Case& c, const unsigned char* in, unsigned char* out, unsigned sets, cudaStream_t stream) {
  const cudaError_t error = launch(c.kernel, Launch{dim3(sets), kLanes, c.shared_bytes, stream, false}, in, out);
  if (error != cudaSuccess || c.kernel != first_of_two_kernel) return error;
  return launch(second_of_two_kernel, Launch{dim3(sets), kLanes, 0, stream, true}, in, out);
}

}  // namespace gcn::cuda::calibration
