// Matrix products by the library that PyTorch itself links. Called inside one thread of torch's pool they run on that
// thread alone, so a tile's sums do not depend on how many threads there are.
//
// The library may add up all terms of an element in one chain, and does so where the product is small; adding to `out` in further
// calls may go on with that chain. Rounding errors grow with the root of its length, so products with few elements are cut into
// blocks of 64 terms, 16 in float64, which are products of their own and are added by pairs. (The worst of few errors is compared
// with the largest of few values; of many, both are the same number of standard deviations. PyTorch's own sums in float64 are
// often those of short chains.) Others are cut into calls of 256 terms, or 64 where they are narrow, which shortens the chains of
// those kernels that begin each call at zero.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <memory>

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

// Matrices of one shape, `step` elements apart.
template <class A>
struct Batch {
  Matrix<A> first;
  int64_t count, step;
};
template <class A>
torch::stable::Tensor tensor_of(const Batch<A>& b) {
  const int64_t sizes[] = {b.count, b.first.rows, b.first.cols}, strides[] = {b.step, b.first.row_stride, b.first.col_stride};
  return torch::stable::from_blob(const_cast<std::remove_const_t<A>*>(b.first.data), {sizes, 3}, {strides, 3},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                  scalar_type_of<std::remove_const_t<A>>());
}

// The sum of `count` arrays of `size` elements one after the other, by pairs; it replaces the first of them.
template <class A>
void add_by_pairs(A* arrays, int64_t count, int64_t size) {
  for (int64_t step = 1; step < count; step *= 2)
    for (int64_t i = 0; i + step < count; i += 2 * step)
      for (int64_t e = 0; e < size; ++e) arrays[i * size + e] += arrays[(i + step) * size + e];
}

// Columns [begin, end) of a matrix; rows are those of its transpose.
template <class A>
Matrix<A> columns(const Matrix<A>& m, int64_t begin, int64_t end) {
  return {m.data + begin * m.col_stride, m.rows, end - begin, m.row_stride, m.col_stride};
}
template <class A>
Matrix<A> rows(const Matrix<A>& m, int64_t begin, int64_t end) {
  return transposed(columns(transposed(m), begin, end));
}

constexpr int64_t kTerms = 256, kNarrow = 16, kTermsOfNarrow = 64, kFewElements = 4096;
template <class A>
constexpr int64_t kTermsOfFew = sizeof(A) == 8 ? 16 : 64;

// out = a b, or out += a b, in chains as long as the library likes.
template <class A>
void multiply_chain(const Matrix<A>& out, const Matrix<const A>& a, const Matrix<const A>& b, bool accumulate) {
  const auto t = tensor_of(out);
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(t.get(), t.get(), tensor_of(a).get(), tensor_of(b).get(), accumulate ? 1.0 : 0.0, 1.0));
}

// Pairs of blocks of terms.
template <class A>
void multiply_few(const Matrix<A>& out, const Matrix<const A>& a, const Matrix<const A>& b) {
  constexpr int64_t kBlock = kTermsOfFew<A>;
  const int64_t terms = a.cols, blocks = terms / kBlock, size = out.rows * out.cols;
  const bool rest = blocks * kBlock < terms;
  const std::unique_ptr<A[]> parts(new A[static_cast<size_t>((blocks + rest) * size)]);
  const Batch<const A> left{columns(a, 0, kBlock), blocks, kBlock * a.col_stride};
  const Batch<const A> right{rows(b, 0, kBlock), blocks, kBlock * b.row_stride};
  const Batch<A> products{dense(parts.get(), out.rows, out.cols), blocks, size};
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_bmm_out(tensor_of(products).get(), tensor_of(left).get(), tensor_of(right).get()));
  if (rest) {
    multiply_chain(dense(parts.get() + blocks * size, out.rows, out.cols), columns(a, blocks * kBlock, terms),
                   rows(b, blocks * kBlock, terms), false);
  }
  add_by_pairs(parts.get(), blocks + rest, size);
  for (int64_t i = 0; i < out.rows; ++i)
    for (int64_t j = 0; j < out.cols; ++j)
      out.data[i * out.row_stride + j * out.col_stride] = parts[static_cast<size_t>(i * out.cols + j)];
}

// out = a b
template <class A>
void multiply(const Matrix<A>& out, const typename Matrix<A>::Const& a, const typename Matrix<A>::Const& b) {
  const int64_t terms = a.cols;
  if (out.rows * out.cols <= kFewElements && terms > kTermsOfFew<A>) return multiply_few<A>(out, a, b);
  const int64_t block = std::min(out.rows, out.cols) <= kNarrow ? kTermsOfNarrow : kTerms;
  for (int64_t t = 0; t < terms; t += block) {
    const int64_t end = std::min(terms, t + block);
    multiply_chain<A>(out, columns(a, t, end), rows(b, t, end), t > 0);
  }
}

}  // namespace gcn::cpu
