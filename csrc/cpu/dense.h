// Dense tensors: new ones, and copies of tensors of any strides.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <vector>

#include "../new_tensor.h"
#include "map.h"
#include "parallel.h"

namespace gcn::cpu {

// In the dtype of `like`; four sizes for channels_last.
inline torch::stable::Tensor new_tensor(const torch::stable::Tensor& like, std::initializer_list<int64_t> sizes,
                                        bool channels_last = false) {
  const int64_t* s = sizes.begin();
  return channels_last ? new_map(like, {s[0], s[1], s[2], s[3]}, true) : new_dense(like, sizes, like.scalar_type());
}

// f of a value of the type that a dtype is computed in.
template <class F>
void with_arithmetic(ScalarType dtype, const F& f) {
  dtype == ScalarType::Double ? f(double{}) : f(float{});
}

// A map as dense [n, c, h, w].
template <class A>
std::vector<A> dense_copy(const Map& map) {
  const int64_t plane = map.h * map.w;
  std::vector<A> to(static_cast<size_t>(map.n * map.c * plane));
  for_each_unit(map.n,
                [&](int64_t n) { load_tile(map, {n, 0, map.h, 0, map.w}, 0, map.c, to.data() + n * map.c * plane, 1, plane); });
  return to;
}

template <class A>
std::vector<A> dense_vector(const torch::stable::Tensor& t) {
  std::vector<A> to(static_cast<size_t>(t.numel()));
  with_storage_type(t.scalar_type(), [&](auto storage) {
    convert(static_cast<const decltype(storage)*>(t.const_data_ptr()), t.stride(0), to.data(), 1, t.numel());
  });
  return to;
}

// The other way: `from` is dense.
template <class A>
void store_dense(const std::vector<A>& from, const Map& map) {
  const int64_t plane = map.h * map.w;
  for_each_unit(
      map.n, [&](int64_t n) { store_tile(map, {n, 0, map.h, 0, map.w}, 0, map.c, from.data() + n * map.c * plane, 1, plane); });
}

}  // namespace gcn::cpu
