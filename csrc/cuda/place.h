// Where the host code of an operator launches: the GPU of its tensors, what plans have to know of it, and PyTorch's stream; and
// what becomes of an error.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>
#include <string>

#include "../checks.h"
#include "gcn/hopper/hopper_kernels.h"
#include "gpu.h"
#include "gpu_rates.h"

namespace gcn::cuda {

using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

inline void check_cuda(int error, const char* what) {
  if (error == cudaSuccess) return;
  // Launch errors that are not "sticky" would otherwise be reported by the next call of anybody.
  cudaGetLastError();
  check(false, what, ": ", cudaGetErrorString(cudaError_t(error)), " (CUDA error ", error, ")");
}

// Of a chain of launches.
inline void check_launches(int error, const char* operation) {
  if (error == cudaSuccess) return;
  const FailedLaunch& f = failed_launch;
  std::ostringstream what;
  if (f.threads == 0) {  // it came to no launch, for want of a tensor map
    what << operation << ": preparing the launch of " << f.kernel;
    check_cuda(error, what.str().c_str());
  }
  what << operation << ": launching " << f.kernel << " (grid " << f.grid[0] << " x " << f.grid[1] << " x " << f.grid[2]
       << " in clusters of " << f.cluster << ", " << f.threads << " threads, " << f.shared_bytes << " bytes of shared memory)";
  check_cuda(error, what.str().c_str());
}

inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, device), "gcn_kernels: properties of the GPU");
  return value;
}

// The same of what only predictions need; zero where a driver does not know it.
inline int64_t attribute_or_zero(cudaDeviceAttr which, int device) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, device) == cudaSuccess) return value;
  cudaGetLastError();
  return 0;
}

// What the environment asks of plans, at every call, so that runs can be compared within one process.
struct Asked {
  const char *generation, *overrides;

  static Asked now() { return {std::getenv("GCN_KERNELS_GENERATION"), std::getenv("GCN_KERNELS_PLAN")}; }
  // Of all that a plan depends on; 0 where nothing is asked.
  int64_t key() const {
    uint64_t hash = 0;
    for (const char* text : {generation, overrides}) {
      for (; text && *text; ++text) hash = (hash ^ uint64_t(*text)) * 0x100000001b3u;
      hash = hash ? hash ^ 0x5555 : 0;
    }
    return int64_t(hash);
  }
  void apply(Gpu& gpu) const {
    gpu.generation = of_name(generation);
    if (overrides) gpu.overrides = read_overrides(overrides);
  }

 private:
  // hopper for the kernels of sm_90a wherever they take the problem, portable for none of them; auto, as if nothing had been
  // asked.
  static Generation of_name(const char* asked) {
    const std::string name = asked ? asked : "";
    if (name.empty() || name == "auto") return Generation::kMeasured;
    if (name == "portable") return Generation::kPortable;
    check(name == "hopper", "GCN_KERNELS_GENERATION: expected auto, portable or hopper, got ", name);
    return Generation::kHopper;
  }
};

// What plans have to know of a GPU; asked for once.
inline const Gpu& properties(int device) {
  static std::mutex mutex;
  static std::map<int, Gpu> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  Gpu gpu;
  gpu.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  gpu.shared_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  gpu.shared_per_multiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  apply({attribute_or_zero(cudaDevAttrClockRate, device), attribute_or_zero(cudaDevAttrMemoryClockRate, device),
         attribute_or_zero(cudaDevAttrGlobalMemoryBusWidth, device), attribute_or_zero(cudaDevAttrL2CacheSize, device)},
        gpu);
  const bool is_9_0 =
      attribute(cudaDevAttrComputeCapabilityMajor, device) == 9 && attribute(cudaDevAttrComputeCapabilityMinor, device) == 0;
  gpu.hopper = is_9_0 && hopper_built();
  if (gpu.hopper) gpu.clusters_of_two = hopper_clusters(2);
  return known.emplace(device, gpu).first->second;  // a map's elements stay where they are
}

// The device of x as the current one, for as long as this lives, and PyTorch's current stream on it.
class Place {
 public:
  explicit Place(const Tensor& x) : device_(x.get_device_index()), guard_(device_) {
    // The CUDA runtime is linked statically, so this library has one of its own beside PyTorch's.
    int current = 0;
    check_cuda(cudaGetDevice(&current), "gcn_kernels: asking for the GPU");
    if (current != device_) check_cuda(cudaSetDevice(device_), "gcn_kernels: choosing the GPU");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<CUstream_st*>(stream);
  }
  int device() const { return device_; }
  // What plans are made for, with what is asked of them.
  Gpu gpu() const {
    Gpu gpu = properties(device_);
    asked_.apply(gpu);
    return gpu;
  }
  int64_t asked() const { return asked_.key(); }
  CUstream_st* stream() const { return stream_; }

 private:
  int device_;
  Asked asked_ = Asked::now();
  DeviceGuard guard_;
  CUstream_st* stream_ = nullptr;
};

}  // namespace gcn::cuda
