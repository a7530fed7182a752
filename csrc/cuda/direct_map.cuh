// Elements of the maps that kernels without tiles read and write: those of an operator, and those between its operations.
#pragma once

#include "device.cuh"

namespace gcn::cuda {

template <class E>
GCN_DEVICE Accumulator<E> element_of(const DirectMap& m, int64_t n, int c, int h, int w) {
  const int64_t at = n * m.map.stride_n + c * m.map.stride_c + h * m.map.stride_h + w * m.map.stride_w;
  if (m.stored) return Accumulator<E>(to_float(static_cast<const E*>(m.map.data)[at]));
  return static_cast<const Accumulator<E>*>(m.map.data)[at];
}

template <class E>
GCN_DEVICE void set_element(const DirectMap& m, int64_t n, int c, int h, int w, Accumulator<E> value) {
  const int64_t at = n * m.map.stride_n + c * m.map.stride_c + h * m.map.stride_h + w * m.map.stride_w;
  void* const data = const_cast<void*>(m.map.data);
  if (m.stored) {
    static_cast<E*>(data)[at] = from_float<E>(value);
  } else {
    static_cast<Accumulator<E>*>(data)[at] = value;
  }
}

}  // namespace gcn::cuda
