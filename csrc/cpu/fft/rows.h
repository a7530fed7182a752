// Rows of images as lines of pixels, and products of such lines with broadcast weights: what convolutions with few channels
// are made of. Lanes are neighbouring columns; the results of several channels stay in registers, and a weight is read once for
// two vectors of columns.
#pragma once

#include "tile_io.h"

namespace gcn::cpu {
namespace fft {
namespace GCN_FFT_ISA {

// Results in registers: channels x vectors of columns, beside one vector of inputs each and a weight.
constexpr int kVectors = 2, kMostChannels = kLanes == 16 ? 14 : 6;
// Floats of zeros on either side of a line of a tile.
constexpr int64_t kBorder = 16;

GCN_INLINE int64_t padded(int64_t columns) { return (columns + 31) / 32 * 32; }
GCN_INLINE int64_t line_of(int64_t columns) { return kBorder + padded(columns) + kBorder; }

// `count` things in as few blocks of at most `most` as possible, as equal as possible.
struct ChannelBlocks {
  int64_t count, number;
  ChannelBlocks(int64_t all, int64_t most) : count(all), number((all + most - 1) / most) {}
  int64_t begin(int64_t i) const { return i * (count / number) + smaller(i, count % number); }
  int size(int64_t i) const { return (int)(begin(i + 1) - begin(i)); }
};

// ---------------------------------------------------------------- tiles

// One row of an image, from a column on, and the lines of a tile that it goes to: channel after channel, `pitch` floats apart.
struct Row {
  int64_t n, row, column, count, channels;
};

template <class AnyImage>
GCN_INLINE int64_t offset_of(const AnyImage& image, const Row& r) {
  return r.n * image.stride_n + r.row * image.stride_h + r.column * image.stride_w;
}
template <class AnyImage>
GCN_INLINE Lanes lanes_of(const AnyImage& image, int count) {
  Lanes lanes;
  for (int i = 0; i < kLanes; i++) lanes.offset[i] = i * image.stride_w;
  lanes.count = count;
  lanes.find_contiguous();
  return lanes;
}

static void load_row(const ConstImage& image, const Row& r, float* line, int64_t pitch) {
  const int64_t step = kLanes * image.stride_w, full = r.count / kLanes, base = offset_of(image, r);
  const int rest = (int)(r.count % kLanes);
  if (full > 0) {
    load_tile(image, base, lanes_of(image, kLanes), {r.channels, image.stride_c, full, step}, (Vec*)line, pitch / kLanes);
  }
  if (rest > 0) {
    load_tile(image, base + full * step, lanes_of(image, rest), {r.channels, image.stride_c, 1, 0}, (Vec*)line + full,
              pitch / kLanes);
  }
}

static void store_row(const Image& image, const Row& r, const float* line, int64_t pitch) {
  const int64_t step = kLanes * image.stride_w, full = r.count / kLanes, base = offset_of(image, r);
  const int rest = (int)(r.count % kLanes);
  if (full > 0) {
    store_tile(image, base, lanes_of(image, kLanes), {r.channels, image.stride_c, full, step}, (const Vec*)line, pitch / kLanes);
  }
  if (rest > 0) {
    store_tile(image, base + full * step, lanes_of(image, rest), {r.channels, image.stride_c, 1, 0}, (const Vec*)line + full,
               pitch / kLanes);
  }
}

GCN_INLINE float load_element(const ConstImage& image, int64_t index) {
  if (image.dtype == DType::kFloat32) return ((const float*)image.data)[index];
  if (image.dtype == DType::kBFloat16) return load_one((const BFloat16*)image.data + index);
  return load_one((const Float16*)image.data + index);
}

GCN_INLINE void clear(float* from, float* to) {
  for (; from < to; from++) *from = 0;
}

// ---------------------------------------------------------------- y and dx

// out[b][j] = bias[b] + sum_i w[i][b] x[offsets[i] + j] for V vectors of columns j
template <int B, int V>
static void line_product(const float* x, const int32_t* offsets, int64_t terms, const float* w, const float* bias, float* out,
                         int64_t out_pitch) {
  Vec sum[B][V];
#pragma GCC unroll 16
  for (int b = 0; b < B; b++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) sum[b][v] = bias ? Vec{} + bias[b] : Vec{};
  for (int64_t i = 0; i < terms; i++, w += B) {
    Vec in[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) in[v] = load(x + offsets[i] + v * kLanes);
#pragma GCC unroll 16
    for (int b = 0; b < B; b++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sum[b][v] += w[b] * in[v];
  }
#pragma GCC unroll 16
  for (int b = 0; b < B; b++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(out + b * out_pitch + v * kLanes, sum[b][v]);
}

typedef void (*LineProduct)(const float*, const int32_t*, int64_t, const float*, const float*, float*, int64_t);
template <int V, size_t... I>
static LineProduct choose_line_product(int channels, std::index_sequence<I...>) {
  static constexpr LineProduct table[] = {line_product<(int)I + 1, V>...};
  return table[channels - 1];
}

// All columns of one row: results of all channels, from packed weights.
static void whole_row(const float* x, const int32_t* offsets, int64_t terms, const float* packed, const float* bias,
                      int64_t channels, int64_t columns, float* out, int64_t out_pitch) {
  const ChannelBlocks blocks(channels, kMostChannels);
  const std::make_index_sequence<kMostChannels> counts;
  for (int64_t j = 0; j < columns; j += kVectors * kLanes) {
    for (int64_t i = 0; i < blocks.number; i++) {
      const int64_t first = blocks.begin(i);
      const LineProduct product = columns - j > kLanes ? choose_line_product<kVectors>(blocks.size(i), counts)
                                                       : choose_line_product<1>(blocks.size(i), counts);
      product(x + j, offsets, terms, packed + first * terms, bias ? bias + first : nullptr, out + first * out_pitch + j,
              out_pitch);
    }
  }
}

// ---------------------------------------------------------------- columns

// Lanes of the concatenation of two vectors.
template <int High>
struct Interleave {
  static constexpr int at(int i) { return High * kLanes / 2 + i / 2 + i % 2 * kLanes; }
};
template <int Odd>
struct Every2nd {
  static constexpr int at(int i) { return 2 * i + Odd; }
};

}  // namespace GCN_FFT_ISA
}  // namespace fft
}  // namespace gcn::cpu
