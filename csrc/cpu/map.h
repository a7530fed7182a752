// A map [N, C, H, W] in memory, of any dtype and strides, and the conversions between it and the dense tiles the CPU kernels
// compute on.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>

namespace gcn::cpu {

using torch::headeronly::ScalarType;

struct Map {
  void* data;
  ScalarType dtype;
  int64_t n, c, h, w;      // sizes
  int64_t sn, sc, sh, sw;  // strides in elements
};

inline Map map_of(const torch::stable::Tensor& t, void* data) {
  return {data, t.scalar_type(), t.size(0), t.size(1), t.size(2), t.size(3), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}
inline Map input_map(const torch::stable::Tensor& t) { return map_of(t, const_cast<void*>(t.const_data_ptr())); }
inline Map output_map(const torch::stable::Tensor& t) { return map_of(t, t.mutable_data_ptr()); }

// A middle map: a dense [N, H, W, C] buffer of the accumulation type.
template <class A>
constexpr ScalarType scalar_type_of() {
  return std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
}
template <class A>
Map dense_map(A* data, int64_t n, int64_t c, int64_t h, int64_t w) {
  return {data, scalar_type_of<A>(), n, c, h, w, h * w * c, 1, w * c, c};
}

// Call f with a value of the C++ type that stores `dtype`.
template <class F>
void with_storage_type(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(torch::headeronly::BFloat16{});
    case ScalarType::Half:
      return f(torch::headeronly::Half{});
    default:
      throw std::runtime_error("expected float32, float64, bfloat16 or float16");
  }
}

// dst[i * dst_stride] = src[i * src_stride], converted.
template <class S, class D>
void convert(const S* src, int64_t src_stride, D* dst, int64_t dst_stride, int64_t count) {
  if (src_stride == 1 && dst_stride == 1) {
    if constexpr (std::is_same_v<S, D>) {
      std::memcpy(dst, src, static_cast<size_t>(count) * sizeof(S));
    } else {
      for (int64_t i = 0; i < count; ++i) dst[i] = static_cast<D>(src[i]);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) dst[i * dst_stride] = static_cast<D>(src[i * src_stride]);
  }
}

// A rectangle of pixels of one image; pixels are numbered row by row.
struct Rect {
  int64_t n, h0, h1, w0, w1;
  int64_t rows() const { return h1 - h0; }
  int64_t cols() const { return w1 - w0; }
  int64_t pixels() const { return rows() * cols(); }
};

// Walk a rectangle x channels [c0, c1) of `map` beside a dense tile with strides (pixel_stride, channel_stride), longest
// contiguous runs innermost: f(element offset in the map, its stride, offset in the tile, its stride, run length).
template <class F>
void walk_tile(const Map& map, const Rect& r, int64_t c0, int64_t c1, int64_t pixel_stride, int64_t channel_stride, const F& f) {
  const int64_t base = r.n * map.sn + r.h0 * map.sh + r.w0 * map.sw + c0 * map.sc;
  if (channel_stride == 1) {
    const bool whole_row = map.sc == 1 && map.sw == c1 - c0 && pixel_stride == c1 - c0;
    for (int64_t h = 0; h < r.rows(); ++h) {
      const int64_t row = base + h * map.sh, tile = h * r.cols() * pixel_stride;
      if (whole_row) {
        f(row, 1, tile, 1, r.cols() * (c1 - c0));
      } else {
        for (int64_t w = 0; w < r.cols(); ++w) f(row + w * map.sw, map.sc, tile + w * pixel_stride, 1, c1 - c0);
      }
    }
  } else {
    const bool whole_rect = map.sh == r.cols() * map.sw;
    const int64_t lines = whole_rect ? 1 : r.rows(), run = whole_rect ? r.pixels() : r.cols();
    for (int64_t c = 0; c < c1 - c0; ++c)
      for (int64_t h = 0; h < lines; ++h)
        f(base + c * map.sc + h * map.sh, map.sw, c * channel_stride + h * run * pixel_stride, pixel_stride, run);
  }
}

template <class A>
void load_tile(const Map& map, const Rect& r, int64_t c0, int64_t c1, A* tile, int64_t pixel_stride, int64_t channel_stride) {
  with_storage_type(map.dtype, [&](auto storage) {
    const auto* data = static_cast<const decltype(storage)*>(map.data);
    walk_tile(map, r, c0, c1, pixel_stride, channel_stride,
              [&](int64_t m, int64_t ms, int64_t t, int64_t ts, int64_t n) { convert(data + m, ms, tile + t, ts, n); });
  });
}

template <class A>
void store_tile(const Map& map, const Rect& r, int64_t c0, int64_t c1, const A* tile, int64_t pixel_stride,
                int64_t channel_stride) {
  with_storage_type(map.dtype, [&](auto storage) {
    auto* data = static_cast<decltype(storage)*>(map.data);
    walk_tile(map, r, c0, c1, pixel_stride, channel_stride,
              [&](int64_t m, int64_t ms, int64_t t, int64_t ts, int64_t n) { convert(tile + t, ts, data + m, ms, n); });
  });
}

}  // namespace gcn::cpu
