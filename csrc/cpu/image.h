// A tensor as the vector kernels see it: address, dtype and strides.
#pragma once

#include "fft/engine.h"
#include "map.h"

namespace gcn::cpu {

inline fft::DType image_dtype(ScalarType dtype) {
  return dtype == ScalarType::BFloat16 ? fft::DType::kBFloat16
         : dtype == ScalarType::Half   ? fft::DType::kFloat16
                                       : fft::DType::kFloat32;
}
inline fft::Image output_image(const torch::stable::Tensor& t) {
  const Map m = output_map(t);
  return {m.data, image_dtype(m.dtype), m.sn, m.sc, m.sh, m.sw};
}
inline fft::ConstImage input_image(const torch::stable::Tensor& t) {
  const Map m = input_map(t);
  return {m.data, image_dtype(m.dtype), m.sn, m.sc, m.sh, m.sw};
}

}  // namespace gcn::cpu
