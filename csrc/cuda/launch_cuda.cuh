// Launching a kernel on a GPU. See device.cuh. What the runtime has answered once is not asked again: a question takes as long
// as a part of the launch itself.
#pragma once

#include <atomic>
#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

namespace gcn::cuda {

template <class T>
struct NotDeduced {
  using type = T;
};

// Whether the current device knows programmatic dependent launch; on older ones launches simply follow each other.
inline bool has_dependent_launch() {
  enum Answer : int { kNotAsked, kNo, kYes };
  constexpr int kDevices = 64;
  static std::atomic<int> answers[kDevices];
  int device = 0, major = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  if (device < kDevices) {
    const int known = answers[device].load(std::memory_order_relaxed);
    if (known != kNotAsked) return known == kYes;
  }
  const bool has = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  if (device < kDevices) answers[device].store(has ? kYes : kNo, std::memory_order_relaxed);
  return has;
}

// Lets a kernel have this much dynamic shared memory on the current device.
inline cudaError_t grant_shared(const void* kernel, size_t bytes) {
  constexpr size_t kGrantedUnasked = 48 * 1024;
  if (bytes <= kGrantedUnasked) return cudaSuccess;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> grants;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  size_t& granted = grants[{kernel, device}];
  if (bytes <= granted) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error == cudaSuccess) granted = bytes;
  return error;
}

inline cudaError_t clear_memory(void* to, size_t bytes, CUstream_st* stream) { return cudaMemsetAsync(to, 0, bytes, stream); }

template <class... A>
cudaError_t launch(void (*kernel)(A...), const Launch& how, typename NotDeduced<A>::type... arguments) {
  const cudaError_t error = grant_shared(reinterpret_cast<const void*>(kernel), how.shared_bytes);
  if (error != cudaSuccess) return launched(how, error);
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = how.grid;
  config.blockDim = dim3(static_cast<unsigned>(how.threads));
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = how.stream;
  config.attrs = &overlap;
  config.numAttrs = how.dependent && has_dependent_launch() ? 1 : 0;
  return launched(how, cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace gcn::cuda
