// What the host files of csrc/cuda need of the CUDA runtime, for a small GPU that is not there. Small, so that plans split; or,
// where the environment variable GCN_EMULATED_GPU is "large-blocks", one multiprocessor with all the shared memory of an H100's,
// so that small problems have the plans of large ones; "hopper", two of them, of compute capability 9.0.
#pragma once

#include <cstdlib>
#include <string>

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrClockRate,
  cudaDevAttrMemoryClockRate,
  cudaDevAttrGlobalMemoryBusWidth,
  cudaDevAttrL2CacheSize,
};

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const char* const asked = std::getenv("GCN_EMULATED_GPU");
  const bool hopper = asked && std::string(asked) == "hopper";
  const bool large_blocks = hopper || (asked && std::string(asked) == "large-blocks");
  if (which == cudaDevAttrClockRate || which == cudaDevAttrMemoryClockRate) return 1;  // as drivers may that refuse to tell
  if (which > cudaDevAttrMemoryClockRate) {
    *value = 0;  // not told
    return cudaSuccess;
  }
  *value = which == cudaDevAttrMultiProcessorCount            ? (hopper         ? 2
                                                                 : large_blocks ? 1
                                                                                : 6)
           : which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? (large_blocks ? 227 : 99) * 1024
           : which == cudaDevAttrComputeCapabilityMajor       ? (hopper ? 9 : 8)
           : which == cudaDevAttrComputeCapabilityMinor       ? (hopper ? 0 : 6)
                                                              : (large_blocks ? 228 : 100) * 1024;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }
