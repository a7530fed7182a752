// The kernels for one instruction set: kernels_*.cpp includes this once, with GCN_FFT_ISA (a namespace), GCN_FFT_VECTOR_BYTES
// and GCN_UPSAMPLE_KERNELS (the name of the result) set.
//
//   y[o, 2i + a, 2j + b] = bias[o] + sum_{c, d, e} x[c, i + d, j + e] w[c, o, a + pad - 2d, b + pad - 2e] (+ add)
//   dx[c, i, j]          = sum_{o, p, q} dy[o, 2i - pad + p, 2j - pad + q] w[c, o, p, q]
//   dw[c, o, p, q]       = sum_{n, i, j} x[c, i, j] dy[o, 2i - pad + p, 2j - pad + q]
//
// over the taps 0 .. k - 1 that there are: a kernel of 4 has two for each parity, one of 3 has one for even and two for odd
// positions, one of 2 has one. Depthwise, o is c.
//
// Lanes are neighbouring columns, the results of several channels stay in registers, a weight is read once for two vectors of
// columns: y by pair_product, dx by line_product (rows.h). A unit copies what it reads into a tile of float with borders
// of zeros, channel by channel; so layouts and types meet only where tiles are loaded and stored. For dw lanes run over
// (q, o), which are neighbours in a tile with the channels innermost: k pixels of dy meet one broadcast pixel of x. Depthwise,
// all three are sums over the taps of lines of one channel (depthwise.inl).
#include "../fft/rows.h"
#include "kernels.h"

namespace gcn::cpu {
namespace fft {
namespace GCN_FFT_ISA {
namespace upsample {

using gcn::cpu::upsample::Backward;
using gcn::cpu::upsample::Forward;
using gcn::cpu::upsample::padded_outputs;
using gcn::cpu::upsample::Sizes;
using gcn::cpu::upsample::sum_pitch;
using gcn::cpu::upsample::sum_size;
using gcn::cpu::upsample::Taps;
using gcn::cpu::upsample::Tiling;
using gcn::cpu::upsample::Unit;

// Outputs of which even and odd columns stay in registers.
constexpr int kMostPairs = kLanes == 16 ? 5 : 2;
// For the weight's gradient: channels of x x vectors of (q, o), beside one weight each and a vector.
constexpr int kGradChannels = kLanes == 16 ? 4 : 3, kGradVectors = kLanes == 16 ? 6 : 4;

#include "depthwise.inl"

// ---------------------------------------------------------------- y

// packed: for each parity a of y's rows, for each block of outputs: [d][c][block][q]; depthwise: as they are
static void pack_forward(const Sizes& s, const float* w, float* packed) {
  if (s.depthwise) {
    memcpy(packed, w, s.weights() * sizeof(float));
    return;
  }
  const ChannelBlocks blocks(s.o, kMostPairs);
  for (int a = 0; a < 2; a++) {
    const Taps rows(s, a);
    for (int64_t i = 0; i < blocks.number; i++)
      for (int d = 0; d < rows.count; d++)
        for (int64_t c = 0; c < s.c; c++)
          for (int64_t o = blocks.begin(i); o < blocks.begin(i + 1); o++)
            for (int q = 0; q < s.k; q++) *packed++ = w[((c * s.o + o) * s.k + rows.tap[d]) * s.k + q];
  }
}

// packed: for each block of channels of x: [p][o][q][block]; depthwise: as they are
static void pack_backward(const Sizes& s, const float* w, float* packed) {
  if (s.depthwise) {
    memcpy(packed, w, s.weights() * sizeof(float));
    return;
  }
  const ChannelBlocks blocks(s.c, kMostChannels);
  for (int64_t i = 0; i < blocks.number; i++)
    for (int p = 0; p < s.k; p++)
      for (int64_t o = 0; o < s.o; o++)
        for (int q = 0; q < s.k; q++)
          for (int64_t c = blocks.begin(i); c < blocks.begin(i + 1); c++) *packed++ = w[((c * s.o + o) * s.k + p) * s.k + q];
}

struct ForwardScratch {
  int64_t line, wide, x, y, add, total;
  ForwardScratch(const Sizes& s, const Tiling& t) {
    line = line_of(t.columns), wide = padded(t.columns);
    x = 0;                              // [row][c][line]
    y = x + (t.rows + 2) * s.c * line;  // [o][2 wide]
    add = y + s.o * 2 * wide;           // [o][2 wide]
    total = add + s.o * 2 * wide;
    if (s.depthwise) total = larger(total, InnermostScratch(s, t).total);
  }
};
static int64_t forward_scratch(const Sizes& s, const Tiling& t) { return ForwardScratch(s, t).total; }

// The rows of x that the unit reads, tile row 0 being row0 - 1: with what is next to them, zero outside of the map.
static void load_x(const Forward& call, const Unit& u, const ForwardScratch& at, float* scratch) {
  const Sizes& s = call.sizes;
  const int64_t columns = u.columns();
  for (int64_t i = u.row0 - (s.k > 3); i < u.row1 + (s.k > 2); i++) {
    float* tile = scratch + at.x + (i - u.row0 + 1) * s.c * at.line;
    const bool outside = i < 0 || i >= s.h;
    for (int64_t c = 0; c < s.c; c++) clear(tile + c * at.line + (outside ? 0 : kBorder + columns), tile + (c + 1) * at.line);
    if (outside) continue;
    load_row(call.x, {u.n, i, u.column0, columns, s.c}, tile + kBorder, at.line);
    for (int64_t c = 0; c < s.c; c++) {
      const int64_t first = offset_of(call.x, {u.n, i, u.column0, 0, 0}) + c * call.x.stride_c;
      float* row = tile + c * at.line + kBorder;
      row[-1] = u.column0 > 0 ? load_element(call.x, first - call.x.stride_w) : 0;
      if (u.column1 < s.w) row[columns] = load_element(call.x, first + columns * call.x.stride_w);
    }
  }
}

// Even and odd columns of a row of y, side by side: B outputs, V vectors of each. rows: where the rows of x that it hears begin.
template <int K, int B, int V>
static void pair_product(const float* const* rows, int count, int64_t channels, int64_t line, const float* w, const float* bias,
                         float* y, int64_t y_pitch) {
  constexpr int pad = K > 2;
  Vec sum[B][2][V];
#pragma GCC unroll 5
  for (int o = 0; o < B; o++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) sum[o][0][v] = sum[o][1][v] = bias ? Vec{} + bias[o] : Vec{};
  for (int d = 0; d < count; d++) {
    const float* x = rows[d];
    for (int64_t c = 0; c < channels; c++, x += line, w += B * K) {
      Vec in[3][V];  // of the column before, the same and the one after
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) {
        if (K > 3) in[0][v] = load(x + v * kLanes - 1);
        in[1][v] = load(x + v * kLanes);
        if (K > 2) in[2][v] = load(x + v * kLanes + 1);
      }
#pragma GCC unroll 4
      for (int q = K - 1; q >= 0; q--) {
        const int odd = (q + pad) & 1, e = (odd + pad - q) / 2;
#pragma GCC unroll 5
        for (int o = 0; o < B; o++)
#pragma GCC unroll 2
          for (int v = 0; v < V; v++) sum[o][odd][v] += w[o * K + q] * in[1 + e][v];
      }
    }
  }
#pragma GCC unroll 5
  for (int o = 0; o < B; o++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      store(y + o * y_pitch + 2 * v * kLanes, shuffle<Interleave<0>>(sum[o][0][v], sum[o][1][v]));
      store(y + o * y_pitch + (2 * v + 1) * kLanes, shuffle<Interleave<1>>(sum[o][0][v], sum[o][1][v]));
    }
}

typedef void (*PairProduct)(const float* const*, int, int64_t, int64_t, const float*, const float*, float*, int64_t);
template <int K, int V, size_t... I>
static PairProduct choose_pair_product(int outputs, std::index_sequence<I...>) {
  static constexpr PairProduct table[] = {pair_product<K, (int)I + 1, V>...};
  return table[outputs - 1];
}
template <int V>
static PairProduct pair_product_of(const Sizes& s, int outputs) {
  const std::make_index_sequence<kMostPairs> counts;
  return s.k == 2   ? choose_pair_product<2, V>(outputs, counts)
         : s.k == 3 ? choose_pair_product<3, V>(outputs, counts)
                    : choose_pair_product<4, V>(outputs, counts);
}

// Row 2i + a of y, [o][2 wide], of all channels of x; x: row i of the tile.
static void dense_row(const Forward& call, int a, const float* x, const float* packed, int64_t columns, const ForwardScratch& at,
                      float* y) {
  const Sizes& s = call.sizes;
  const Taps taps(s, a);
  const int64_t terms = taps.count * s.c * s.k;
  const ChannelBlocks blocks(s.o, kMostPairs);
  if (a == 1) packed += Taps(s, 0).count * s.c * s.k * s.o;
  for (int64_t j = 0; j < columns; j += kVectors * kLanes) {
    const float* rows[2];
    for (int d = 0; d < taps.count; d++) rows[d] = x + taps.shift[d] * s.c * at.line + j;
    for (int64_t i = 0; i < blocks.number; i++) {
      const int64_t o = blocks.begin(i);
      const PairProduct product =
          columns - j > kLanes ? pair_product_of<kVectors>(s, blocks.size(i)) : pair_product_of<1>(s, blocks.size(i));
      product(rows, taps.count, s.c, at.line, packed + o * terms, call.bias ? call.bias + o : nullptr,
              y + o * 2 * at.wide + 2 * j, 2 * at.wide);
    }
  }
}

template <class T>
static void add_to(const float* add, float* y, int64_t count, T) {
  for (int64_t j = 0; j < count; j += kLanes) store(y + j, rounded(load(y + j), T{}) + load(add + j));
}

// y += add, as the sum of two maps: what is added to is rounded to the type of the map.
static void add_row(const Forward& call, const Row& r, float* add, float* y, int64_t pitch) {
  load_row(call.add, r, add, pitch);
  for (int64_t c = 0; c < r.channels; c++, add += pitch, y += pitch) {
    if (call.y.dtype == DType::kFloat32) add_to(add, y, r.count, float{});
    if (call.y.dtype == DType::kBFloat16) add_to(add, y, r.count, BFloat16{});
    if (call.y.dtype == DType::kFloat16) add_to(add, y, r.count, Float16{});
  }
}

// Whether rows of y and of what is added are runs of neighbouring elements, of each channel or of all.
static bool has_runs(const Forward& call) {
  const int64_t o = call.sizes.o;
  return (call.y.stride_w == 1 && call.add.stride_w == 1) || (has_dense_pixels(call.y, o) && has_dense_pixels(call.add, o));
}

// The same sum in a row of y that has just been stored, rounded: nothing is turned for it.
template <class T>
static void add_runs_of(const Forward& call, const Row& r) {
  const bool planar = call.y.stride_w == 1 && call.add.stride_w == 1;
  const int64_t runs = planar ? r.channels : 1, count = planar ? r.count : r.count * r.channels;
  T* y = (T*)call.y.data + offset_of(call.y, r);
  const T* add = (const T*)call.add.data + offset_of(call.add, r);
  for (int64_t c = 0; c < runs; c++, y += call.y.stride_c, add += call.add.stride_c) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store_all(y + i, load(y + i) + load(add + i));
    const int rest = (int)(count - i);
    if (rest > 0) store_n(y + i, load_n(y + i, rest) + load_n(add + i, rest), rest);
  }
}
static void add_runs(const Forward& call, const Row& r) {
  if (call.y.dtype == DType::kFloat32) add_runs_of<float>(call, r);
  if (call.y.dtype == DType::kBFloat16) add_runs_of<BFloat16>(call, r);
  if (call.y.dtype == DType::kFloat16) add_runs_of<Float16>(call, r);
}

static void forward(const Forward& call, const Tiling& tiling, const float* packed, int64_t unit, float* scratch) {
  const Sizes& s = call.sizes;
  const Unit u(s, tiling, unit);
  const ForwardScratch at(s, tiling);
  const int64_t kept = u.kept(s);
  if (kept == 0 || 2 * u.row0 >= s.yh) return;
  if (s.depthwise && forward_depthwise(call, tiling, u, packed, scratch)) return;
  load_x(call, u, at, scratch);
  float* y = scratch + at.y;
  for (int64_t i = u.row0; i < u.row1; i++) {
    const float* x = scratch + at.x + (i - u.row0 + 1) * s.c * at.line + kBorder;
    for (int a = 0; a < 2 && 2 * i + a < s.yh; a++) {
      if (s.depthwise) {
        for (int64_t c = 0; c < s.c; c++) {
          depthwise_of(s).y[a](x + c * at.line, s.c * at.line, u.columns(), packed + c * s.taps(), call.bias ? call.bias[c] : 0,
                               y + c * 2 * at.wide);
        }
      } else {
        dense_row(call, a, x, packed, u.columns(), at, y);
      }
      const Row row{u.n, 2 * i + a, 2 * u.column0, kept, s.o};
      const bool runs = call.add.data && has_runs(call);
      if (call.add.data && !runs) add_row(call, row, scratch + at.add, y, 2 * at.wide);
      store_row(call.y, row, y, 2 * at.wide);
      if (runs) add_runs(call, row);
    }
  }
}

// ---------------------------------------------------------------- dx and dw

// Zeros behind a turned row, which the vectors of its last pixel read.
constexpr int64_t kBeyond = 16;

struct BackwardScratch {
  int64_t line, wide, pixels, dy, whole, dx, x, turned, part, offsets, total;
  BackwardScratch(const Sizes& s, const Tiling& t) {
    const int64_t rows = 2 * t.rows + 2;
    line = line_of(t.columns), wide = padded(t.columns);
    pixels = (2 * t.columns + 2) * padded_outputs(s.o) + kBeyond;  // of a turned row
    dy = 0;                                                        // [row][o][parity of the column][line]
    whole = dy + rows * s.o * 2 * line;                            // a row as it lies in memory, [o][2 wide]
    dx = whole + s.o * 2 * wide;                                   // [c][wide]
    x = dx + s.c * wide;                                           // [c][wide]
    turned = x + s.c * wide;                                       // [row][column][o]
    part = turned + (s.depthwise ? 0 : rows * pixels + 15) / 16 * 16;
    offsets = part + (s.depthwise ? s.weights() * kLanes : sum_size(s));  // of [c][p][q][o]; depthwise, of vectors of sums
    total = offsets + (s.taps() * s.o + 15) / 16 * 16;
  }
};
static int64_t backward_scratch(const Sizes& s, const Tiling& t) { return BackwardScratch(s, t).total; }

// Even columns 2 column0 .. 2 column1 and odd ones 2 column0 - 1 .. 2 column1 - 1 of a row of dy, zero where there are none.
static void load_parities(const Backward& call, const Unit& u, int64_t row, const BackwardScratch& at, float* whole,
                          float* tile) {
  const Sizes& s = call.sizes;
  const int64_t columns = u.columns(), kept = u.kept(s);
  const bool outside = row < 0 || row >= s.yh;
  if (!outside && kept > 0) load_row(call.dy, {u.n, row, 2 * u.column0, kept, s.o}, whole, 2 * at.wide);
  for (int64_t o = 0; o < s.o; o++) {
    float *even = tile + 2 * o * at.line + kBorder, *odd = even + at.line;
    if (!outside) {
      const float* from = whole + o * 2 * at.wide;
      for (int64_t j = 0; j < columns; j += kLanes) {
        const Vec l = load(from + 2 * j), r = load(from + 2 * j + kLanes);
        store(even + j, shuffle<Every2nd<0>>(l, r));
        store(odd + j, shuffle<Every2nd<1>>(l, r));
      }
    }
    clear(outside ? even - kBorder : even + (kept + 1) / 2, odd - kBorder);
    clear(outside ? odd - kBorder : odd + kept / 2, odd - kBorder + at.line);
    if (outside) continue;
    const int64_t first = offset_of(call.dy, {u.n, row, 2 * u.column0, 0, 0}) + o * call.dy.stride_c;
    odd[-1] = u.column0 > 0 && 2 * u.column0 <= s.yw ? load_element(call.dy, first - call.dy.stride_w) : 0;
    if (2 * u.column1 < s.yw) even[columns] = load_element(call.dy, first + 2 * columns * call.dy.stride_w);
  }
}

// The same row with its channels innermost: columns 2 column0 - 1 .. 2 column1, padded_outputs(o) floats each.
static void turn(const Sizes& s, int64_t columns, int64_t line, const float* tile, float* to) {
  const int64_t width = padded_outputs(s.o);
  for (int odd = 0; odd < 2; odd++)
    for (int64_t o0 = 0; o0 < width; o0 += kLanes)
      for (int64_t t0 = 0; t0 <= columns; t0 += kLanes) {
        Vec rows[kLanes];
        for (int r = 0; r < kLanes; r++) {
          rows[r] = o0 + r < s.o ? load(tile + (2 * (o0 + r) + odd) * line + kBorder - odd + t0) : Vec{};
        }
        transpose(rows);
        const int count = (int)smaller(kLanes, columns + 1 - t0), outputs = (int)smaller(kLanes, width - o0);
        for (int t = 0; t < count; t++) store_n(to + (2 * (t0 + t) + 1 - odd) * width + o0, rows[t], outputs);
      }
  clear(to + (2 * columns + 2) * width, to + (2 * columns + 2) * width + kBeyond);
}

// sum[b][v] += sum_j x[b][j] dy[j][v] for V vectors of (q, o)
template <int B, int V>
static void grad_product(const float* x, int64_t x_pitch, int64_t columns, const float* dy, int64_t dy_pitch, float* sum,
                         int64_t sum_pitch) {
  Vec acc[B][V];
#pragma GCC unroll 4
  for (int b = 0; b < B; b++)
#pragma GCC unroll 6
    for (int v = 0; v < V; v++) acc[b][v] = load(sum + b * sum_pitch + v * kLanes);
  for (int64_t j = 0; j < columns; j++, dy += dy_pitch) {
    Vec in[B];
#pragma GCC unroll 4
    for (int b = 0; b < B; b++) in[b] = Vec{} + x[b * x_pitch + j];
#pragma GCC unroll 6
    for (int v = 0; v < V; v++) {
      const Vec g = load(dy + v * kLanes);
#pragma GCC unroll 4
      for (int b = 0; b < B; b++) acc[b][v] += in[b] * g;
    }
  }
#pragma GCC unroll 4
  for (int b = 0; b < B; b++)
#pragma GCC unroll 6
    for (int v = 0; v < V; v++) store(sum + b * sum_pitch + v * kLanes, acc[b][v]);
}

typedef void (*GradProduct)(const float*, int64_t, int64_t, const float*, int64_t, float*, int64_t);
template <int B, size_t... I>
static GradProduct choose_vectors(int vectors, std::index_sequence<I...>) {
  static constexpr GradProduct table[] = {grad_product<B, (int)I + 1>...};
  return table[vectors - 1];
}
template <size_t... I>
static GradProduct choose_grad_product(int channels, int vectors, std::index_sequence<I...>) {
  static constexpr GradProduct (*table[])(int, std::make_index_sequence<kGradVectors>) = {choose_vectors<(int)I + 1>...};
  return table[channels - 1](vectors, std::make_index_sequence<kGradVectors>{});
}

static void weight_gradient(const Backward& call, const Unit& u, const BackwardScratch& at, float* scratch, float* sum) {
  const Sizes& s = call.sizes;
  const int64_t columns = u.columns(), width = padded_outputs(s.o), pitch = sum_pitch(s), size = sum_size(s);
  float *x = scratch + at.x, *turned = scratch + at.turned, *part = scratch + at.part;
  for (int64_t row = 0; row < 2 * (u.row1 - u.row0) - 2 + s.k; row++) {
    turn(s, columns, at.line, scratch + at.dy + row * s.o * 2 * at.line, turned + row * at.pixels);
  }
  clear(part, part + size);
  const ChannelBlocks channels(s.c, kGradChannels), vectors(pitch / kLanes, kGradVectors);
  const std::make_index_sequence<kGradChannels> counts;
  for (int64_t i = u.row0; i < u.row1; i++) {
    load_row(call.x, {u.n, i, u.column0, columns, s.c}, x, at.wide);
    for (int p = 0; p < s.k; p++) {
      const float* dy = turned + (2 * (i - u.row0) + p) * at.pixels + (1 - s.pad()) * width;
      for (int64_t v = 0; v < vectors.number; v++)
        for (int64_t b = 0; b < channels.number; b++) {
          const int64_t c = channels.begin(b), first = vectors.begin(v) * kLanes;
          choose_grad_product(channels.size(b), vectors.size(v), counts)(x + c * at.wide, at.wide, columns, dy + first, 2 * width,
                                                                         part + (c * s.k + p) * pitch + first, s.k * pitch);
        }
    }
  }
  for (int64_t i = 0; i < size; i++) sum[i] += part[i];
}

static void depthwise_weight_gradient(const Backward& call, const Unit& u, const BackwardScratch& at, float* scratch,
                                      float* sum) {
  const Sizes& s = call.sizes;
  const int64_t row_size = s.o * 2 * at.line, size = s.taps() * kLanes;
  float *x = scratch + at.x, *part = scratch + at.part;
  clear(part, part + s.c * size);
  for (int64_t i = u.row0; i < u.row1; i++) {
    load_row(call.x, {u.n, i, u.column0, u.columns(), s.c}, x, at.wide);
    const float* dy = scratch + at.dy + 2 * (i - u.row0) * row_size + kBorder;
    for (int64_t c = 0; c < s.c; c++) {
      depthwise_of(s).dw(x + c * at.wide, dy + c * 2 * at.line, row_size, at.line, u.columns(), part + c * size);
    }
  }
  for (int64_t c = 0; c < s.c; c++)
    for (int64_t tap = 0; tap < s.taps(); tap++) {
      float total = 0;
      for (int lane = 0; lane < kLanes; lane++) total += part[c * size + tap * kLanes + lane];
      sum[(c * s.k + tap / s.k) * sum_pitch(s) + tap % s.k * padded_outputs(1)] += total;
    }
}

static void backward(const Backward& call, const Tiling& tiling, const float* packed, int64_t unit, float* scratch, float* sum) {
  const Sizes& s = call.sizes;
  const Unit u(s, tiling, unit);
  const BackwardScratch at(s, tiling);
  const int64_t columns = u.columns(), terms = s.taps() * s.o, row_size = s.o * 2 * at.line;
  const int64_t row0 = 2 * u.row0 - s.pad(), rows = 2 * (u.row1 - u.row0) - 2 + s.k;
  for (int64_t row = 0; row < rows; row++) {
    load_parities(call, u, row0 + row, at, scratch + at.whole, scratch + at.dy + row * row_size);
  }
  if (call.dx.data) {
    int32_t *offsets = (int32_t*)(scratch + at.offsets), *next = offsets;
    for (int p = 0; p < s.k; p++)
      for (int64_t o = 0; o < s.o; o++)
        for (int q = 0; q < s.k; q++) {
          const int position = q - (int)s.pad(), odd = position & 1, shift = (position - odd) / 2;
          *next++ = (int32_t)((2 * (p * s.o + o) + odd) * at.line + shift);
        }
    for (int64_t i = u.row0; i < u.row1; i++) {
      const float* dy = scratch + at.dy + 2 * (i - u.row0) * row_size + kBorder;
      float* dx = scratch + at.dx;
      if (s.depthwise) {
        for (int64_t c = 0; c < s.c; c++) {
          depthwise_of(s).dx(dy + c * 2 * at.line, row_size, at.line, columns, packed + c * s.taps(), dx + c * at.wide);
        }
      } else {
        whole_row(dy, offsets, terms, packed, nullptr, s.c, columns, dx, at.wide);
      }
      store_row(call.dx, {u.n, i, u.column0, columns, s.c}, dx, at.wide);
    }
  }
  if (call.weight) (s.depthwise ? depthwise_weight_gradient : weight_gradient)(call, u, at, scratch, sum);
}

}  // namespace upsample
}  // namespace GCN_FFT_ISA
}  // namespace fft

namespace upsample {

const Kernels GCN_UPSAMPLE_KERNELS = {
    fft::GCN_FFT_ISA::upsample::pack_forward,    fft::GCN_FFT_ISA::upsample::pack_backward,
    fft::GCN_FFT_ISA::upsample::forward_scratch, fft::GCN_FFT_ISA::upsample::backward_scratch,
    fft::GCN_FFT_ISA::upsample::forward,         fft::GCN_FFT_ISA::upsample::backward,
};

}  // namespace upsample
}  // namespace gcn::cpu
