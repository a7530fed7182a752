// The names of CUDA that kernels and launchers use, for a host compiler.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

using std::max;
using std::min;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error of the emulator";
}

namespace simt {
inline dim3 to_dim3(Index i) { return {i.x, i.y, i.z}; }
}  // namespace simt

#define threadIdx (::simt::running.thread->index)
#define blockIdx (::simt::running.block)
#define blockDim (::dim3(::simt::running.threads))
#define gridDim (::simt::to_dim3(::simt::running.grid->blocks))

#define GCN_EMULATED_TEXT_OF(x) #x
#define GCN_EMULATED_TEXT(x) GCN_EMULATED_TEXT_OF(x)
#define __syncthreads() ::simt::sync_threads("__syncthreads() of " __FILE__ ":" GCN_EMULATED_TEXT(__LINE__))
#define __syncwarp() ::simt::sync_warp()
