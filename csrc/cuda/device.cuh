// The device layer: the one header that kernels include. Every warp-level and asynchronous instruction has one name here and
// two faces: inline PTX where nvcc compiles, emulation on a CPU where a host compiler does (tests/emu). A kernel that touches
// shared memory only through this layer is checked by the emulator for races, bounds and alignment; one that includes another
// CUDA header is not.
//
// Both faces provide, beside the names of CUDA itself (threadIdx, __syncthreads, __syncwarp, dim3, float4, make_float4, min ...):
//
//   GCN_DEVICE, GCN_HOST_DEVICE            what stands before a device function, before one that the host calls as well
//   GCN_PARAMS                             const, for a kernel's struct of parameters: it stays in constant memory
//   GCN_DYNAMIC_SHARED(name)               unsigned char* name: the block's dynamic shared memory, aligned to 128 bytes
//   Half, BFloat16                         the 16-bit types
//   copy_async<BYTES>(to, from, valid)     cp.async of 4, 8 or 16 bytes into shared memory; zeros, reading nothing, unless valid.
//                                          Both addresses are aligned to BYTES, also where nothing is read.
//   copy_commit(), copy_wait<N>()          close a group; wait until at most N groups are in flight
//   ldmatrix_x4[_trans], ldmatrix_x2[_trans]  8 x 8 tiles of 16-bit elements; lane 8 i + j gives the address of row j of tile i
//   mma(d, a, b, Half{} or BFloat16{})     d [16 x 8] += a [16 x 16] b [16 x 8], accumulated in fp32
//   mma_short(d, a, b, Half{} or BFloat16{})  d [16 x 8] += a [16 x 8] b [8 x 8]: the first half of the operands of mma
//   mma(d, a, b, Tf32{})                   d [16 x 8] += a [16 x 8] b [8 x 8]; the low 13 bits of the operands do not count, so
//                                          round them with round_to_tf32 once, or lose half a bit and gain a bias
//   load_shared, store_shared              2, 4, 8 or 16 bytes
//   load_global, store_global              a struct of neighbours at once, at a multiple of its alignment
//   shuffle_xor, shuffle_down              over the full warp
//   broadcast(value)                       lane 0's value; the compiler knows that it is the same in all lanes, so that
//                                          branches on it are warp-uniform
//   ballot(condition)                      bit i: whether it holds in lane i
//   kept(value)                            the 32-bit value, which the compiler keeps in a register instead of computing it again
//   take_ticket(counter, last)             by one thread: how many have been taken before, 0 ... last; after the last one the
//                                          counter is 0 again. What the block had written before a barrier in front of it, the
//                                          block that takes a later ticket reads behind a barrier after it.
//   wait_for_dependencies(), launch_dependents()  programmatic dependent launch, sm_90 and newer; nothing before
//   launch(kernel, Launch, arguments...)   host side
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace gcn::cuda {

struct Tf32 {};  // fp32 bits of which the tensor cores use the upper 19
struct Fp32 {};  // fp32 products out of three tf32 ones

// The type that sums of T are kept in.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

}  // namespace gcn::cuda

#if defined(__CUDACC__)
#include "device_ptx.cuh"
#else
#include "emulated_device.h"
#endif

#include "operands.h"

namespace gcn::cuda {

// How a kernel is launched. `dependent`: it may start before the launch before it in the stream has ended, and calls
// wait_for_dependencies() before it touches anything that an earlier launch reads or writes.
struct Launch {
  dim3 grid;
  int threads;
  size_t shared_bytes;
  cudaStream_t stream;
  bool dependent;
};

// What a launcher returns: the launch's error, of which it keeps what was asked for.
inline cudaError_t launched(const Launch& how, cudaError_t error, int cluster = 1) {
  if (error != cudaSuccess) {
    failed_launch = {nullptr, {how.grid.x, how.grid.y, how.grid.z}, how.threads, cluster, how.shared_bytes};
  }
  return error;
}

// A = high + low with both parts in tf32; what is left out is at most 2^-22 |A|.
struct SplitFp32 {
  uint32_t high, low;
};

GCN_DEVICE SplitFp32 split_fp32(uint32_t bits) {
  const uint32_t high = round_to_tf32(bits);
  return {high, round_to_tf32(bits_of(float_of(bits) - float_of(high)))};
}

// d += a b with operands in fp32: low high + high low + high high, small terms first. The product of the low parts is left out,
// which with the rounding of the low parts makes an error of about 2^-21 per product, relative to the product.
//  * The tensor core does not round its sums to nearest but cuts them off, so a long sum inside it would lose what the split has
//    won: each step starts from zero and is added outside (Ootomo and Yokota, 2022).
//  * The low part of an infinity is nan. Wherever the small terms are not finite, the product of the high parts already says
//    what a product in fp32 would have said, so they are dropped there.
GCN_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Fp32) {
  uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
  for (int i = 0; i < 4; ++i) {
    const SplitFp32 parts = split_fp32(a[i]);
    a_high[i] = parts.high, a_low[i] = parts.low;
  }
  for (int i = 0; i < 2; ++i) {
    const SplitFp32 parts = split_fp32(b[i]);
    b_high[i] = parts.high, b_low[i] = parts.low;
  }
  float sum[4] = {};
  mma(sum, a_low, b_high, Tf32{});
  mma(sum, a_high, b_low, Tf32{});
  constexpr float kLargest = 3.402823466e+38f;
  for (int i = 0; i < 4; ++i) {
    if (!(fabsf(sum[i]) <= kLargest)) sum[i] = 0;
  }
  mma(sum, a_high, b_high, Tf32{});
  for (int i = 0; i < 4; ++i) d[i] += sum[i];
}

}  // namespace gcn::cuda

#if defined(__CUDACC__)
#include "launch_cuda.cuh"
#else
#include "emulated_launch.h"
#endif
