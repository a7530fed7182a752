// Matrix products by the library that PyTorch itself links. Called inside one thread of torch's pool they run on that
// thread alone, so a tile's sums do not depend on how many threads there are.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "map.h"

namespace gcn::cpu {

// A matrix somewhere in memory; one of the two strides is 1.
template <class A>
struct Matrix {
  A* data;
  int64_t rows, cols;
  int64_t row_stride, col_stride;

  using Const = Matrix<const A>;
  operator Matrix<const A>() const { return {data, rows, cols, row_stride, col_stride}; }
};

template <class A>
Matrix<A> dense(A* data, int64_t rows, int64_t cols) {
  return {data, rows, cols, cols, 1};
}
template <class A>
Matrix<A> transposed(const Matrix<A>& m) {
  return {m.data, m.cols, m.rows, m.col_stride, m.row_stride};
}

template <class A>
torch::stable::Tensor tensor_of(const Matrix<A>& m) {
  const int64_t sizes[] = {m.rows, m.cols}, strides[] = {m.row_stride, m.col_stride};
  return torch::stable::from_blob(const_cast<std::remove_const_t<A>*>(m.data), {sizes, 2}, {strides, 2},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                  scalar_type_of<std::remove_const_t<A>>());
}

// out = a b, or out += a b.
template <class A>
void multiply(const Matrix<A>& out, const typename Matrix<A>::Const& a, const typename Matrix<A>::Const& b, bool accumulate) {
  const auto t = tensor_of(out);
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(t.get(), t.get(), tensor_of(a).get(), tensor_of(b).get(), accumulate ? 1.0 : 0.0, 1.0));
}

}  // namespace gcn::cpu
