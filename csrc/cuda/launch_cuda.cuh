// Launching a kernel on a GPU. See device.cuh.
#pragma once

namespace gcn::cuda {

template <class T>
struct NotDeduced {
  using type = T;
};

// Whether the current device knows programmatic dependent launch; on older ones launches simply follow each other.
inline bool has_dependent_launch() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
}

template <class... A>
cudaError_t launch(void (*kernel)(A...), const Launch& how, typename NotDeduced<A>::type... arguments) {
  constexpr size_t kGrantedUnasked = 48 * 1024;
  if (how.shared_bytes > kGrantedUnasked) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.shared_bytes));
    if (error != cudaSuccess) return error;
  }
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
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace gcn::cuda
