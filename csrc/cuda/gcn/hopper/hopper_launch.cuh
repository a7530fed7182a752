// Launching a kernel in clusters on a GPU, and encoding tensor maps. See hopper_device.cuh.
#pragma once

#include <cuda.h>

namespace gcn::cuda {

// The encoder is the driver's, and asked for by name, so that nothing links the driver's library.
inline cudaError_t encode(const TensorShape& shape, CUtensorMap* map) {
  using Encode =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                   const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static void* const found = [] {
    constexpr const char* kName = "cuTensorMapEncodeTiled";  // since CUDA 12.0
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult status;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion(kName, &entry, 12000, cudaEnableDefault, &status);
#else
    const cudaError_t error = cudaGetDriverEntryPoint(kName, &entry, cudaEnableDefault, &status);
#endif
    return error == cudaSuccess && status == cudaDriverEntryPointSuccess ? entry : nullptr;
  }();
  if (!found) return cudaErrorNotSupported;
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  cuuint64_t sizes[4], strides[3];
  cuuint32_t box[4];
  for (int i = 0; i < shape.rank; ++i) sizes[i] = shape.size[i], box[i] = shape.box[i];
  for (int i = 0; i + 1 < shape.rank; ++i) strides[i] = shape.stride[i];
  const CUtensorMapSwizzle swizzle = shape.row_swizzle == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : shape.row_swizzle == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                     : shape.row_swizzle == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                                               : CU_TENSOR_MAP_SWIZZLE_NONE;
  // Elements are moved as they are, so only their size counts.
  const CUtensorMapDataType type = shape.element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16 : CU_TENSOR_MAP_DATA_TYPE_UINT32;
  const CUresult result = reinterpret_cast<Encode>(found)(
      map, type, static_cast<cuuint32_t>(shape.rank), const_cast<void*>(shape.data), sizes, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

inline cudaLaunchAttribute cluster_of(int blocks) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

template <class... A>
cudaError_t launch_cluster(void (*kernel)(A...), const Launch& how, int blocks, typename NotDeduced<A>::type... arguments) {
  const cudaError_t error = grant_shared(reinterpret_cast<const void*>(kernel), how.shared_bytes);
  if (error != cudaSuccess) return launched(how, error, blocks);
  cudaLaunchAttribute attributes[2] = {cluster_of(blocks)};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = how.grid;
  config.blockDim = dim3(static_cast<unsigned>(how.threads));
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = how.stream;
  config.attrs = attributes;
  config.numAttrs = how.dependent ? 2 : 1;
  return launched(how, cudaLaunchKernelEx(&config, kernel, arguments...), blocks);
}

// Clusters of a kernel that the current GPU runs side by side; 0 if it does not say.
template <class... A>
int clusters_side_by_side(void (*kernel)(A...), const Launch& how, int blocks) {
  if (grant_shared(reinterpret_cast<const void*>(kernel), how.shared_bytes) != cudaSuccess) return 0;
  cudaLaunchAttribute attribute = cluster_of(blocks);
  cudaLaunchConfig_t config = {};
  config.gridDim = how.grid;
  config.blockDim = dim3(static_cast<unsigned>(how.threads));
  config.dynamicSmemBytes = how.shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int count = 0;
  return cudaOccupancyMaxActiveClusters(&count, kernel, &config) == cudaSuccess ? count : 0;
}

}  // namespace gcn::cuda
