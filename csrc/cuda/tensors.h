// What the host files of the CUDA operators do with tensors before and after they launch.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "../new_tensor.h"
#include "gpu.h"
#include "operands.h"

namespace gcn::cuda {

using torch::stable::Tensor;

// The arithmetic of a dtype as it is stored; of float32 without rounding its factors.
inline Math stored_as(torch::headeronly::ScalarType dtype) {
  using torch::headeronly::ScalarType;
  return dtype == ScalarType::Half       ? Math::kHalf
         : dtype == ScalarType::BFloat16 ? Math::kBFloat16
         : dtype == ScalarType::Double   ? Math::kDouble
                                         : Math::kFloat;
}

inline Strides strides_of(const Tensor& map) { return {map.stride(0), map.stride(1), map.stride(2), map.stride(3)}; }

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
inline std::optional<Tensor> dense(const std::optional<Tensor>& t) { return t ? std::optional<Tensor>(dense(*t)) : std::nullopt; }

inline Tensor new_workspace(const Tensor& x, size_t bytes) {
  return new_dense(x, {static_cast<int64_t>(std::max<size_t>(bytes, 1))}, aoti_torch_dtype_uint8());
}

// Gradients as the kernels write them, dense, and into the layout of the results afterwards.
class DenseGradients {
 public:
  // The memory of a gradient that is wanted.
  void* of(const Tensor& result) {
    if (result.is_contiguous()) return result.mutable_data_ptr();
    written_.emplace_back(result, torch::stable::new_empty(result, result.sizes()));
    return written_.back().second.mutable_data_ptr();
  }
  void finish() {
    for (auto& [result, dense] : written_) torch::stable::copy_(result, dense);
  }

 private:
  std::vector<std::pair<Tensor, Tensor>> written_;
};

}  // namespace gcn::cuda
