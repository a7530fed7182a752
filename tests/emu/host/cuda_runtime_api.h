// What csrc/cuda/gcn_cuda.cpp needs of the CUDA runtime, for a small GPU that is not there. Small, so that plans split.
#pragma once

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
};

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrMultiProcessorCount            ? 6
           : which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 99 * 1024
           : which == cudaDevAttrComputeCapabilityMajor       ? 8
           : which == cudaDevAttrComputeCapabilityMinor       ? 6
                                                              : 100 * 1024;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }
