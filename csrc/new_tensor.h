// New tensors without values, by a direct call: that of an operator by its name takes several times as long, a microsecond in the
// caches and tens outside of them, and a small block has a dozen gradients.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "dtype.h"

namespace gcn {

inline int32_t code_of(torch::headeronly::ScalarType dtype) {
  using torch::headeronly::ScalarType;
  check_dtype(dtype);
  return dtype == ScalarType::Float      ? aoti_torch_dtype_float32()
         : dtype == ScalarType::Double   ? aoti_torch_dtype_float64()
         : dtype == ScalarType::BFloat16 ? aoti_torch_dtype_bfloat16()
                                         : aoti_torch_dtype_float16();
}
inline int32_t code_of(const torch::stable::Tensor& t) {
  int32_t code = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &code));
  return code;
}

// On the device of `like`; `code` is of a dtype.
inline torch::stable::Tensor new_strided(const torch::stable::Tensor& like, int32_t code, size_t dims, const int64_t* sizes,
                                         const int64_t* strides) {
  int32_t device = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(dims), sizes, strides, code, device,
                                                  static_cast<int32_t>(like.get_device_index()), &made));
  return torch::stable::Tensor(made);
}

// Dense, of at most four dimensions.
inline torch::stable::Tensor new_dense(const torch::stable::Tensor& like, std::initializer_list<int64_t> sizes, int32_t code) {
  int64_t strides[4] = {}, stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride *= sizes.begin()[i]) strides[i] = stride;
  return new_strided(like, code, sizes.size(), sizes.begin(), strides);
}
inline torch::stable::Tensor new_dense(const torch::stable::Tensor& like, std::initializer_list<int64_t> sizes) {
  return new_dense(like, sizes, code_of(like));
}
inline torch::stable::Tensor new_dense(const torch::stable::Tensor& like, std::initializer_list<int64_t> sizes,
                                       torch::headeronly::ScalarType dtype) {
  return new_dense(like, sizes, code_of(dtype));
}

// [N, C, H, W] in one of the two layouts.
inline torch::stable::Tensor new_map(const torch::stable::Tensor& like, const int64_t (&sizes)[4], bool channels_last) {
  const int64_t c = sizes[1], h = sizes[2], w = sizes[3];
  const int64_t nchw[] = {c * h * w, h * w, w, 1}, nhwc[] = {h * w * c, 1, w * c, c};
  return new_strided(like, code_of(like), 4, sizes, channels_last ? nhwc : nchw);
}

// With the strides that empty_like gives: the tensor's own where they leave no gaps.
inline torch::stable::Tensor new_like(const torch::stable::Tensor& t) {
  const auto size = t.sizes(), stride = t.strides();
  const bool channels_last = size.size() == 4 && stride[1] == 1 && stride[3] == size[1] && stride[2] == size[3] * size[1] &&
                             stride[0] == size[2] * stride[2];
  if (!channels_last && !t.is_contiguous()) return torch::stable::empty_like(t);
  return new_strided(t, code_of(t), size.size(), size.data(), stride.data());
}

}  // namespace gcn
