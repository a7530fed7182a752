// The kernels for one instruction set: kernels_*.cpp includes this once, with GCN_FFT_ISA (a namespace), GCN_FFT_VECTOR_BYTES
// and GCN_UPSAMPLE_KERNELS (the name of the result) set.
//
//   y[o, 2i + a, 2j + b] = bias[o] + sum_{c, d = a-1, a, e = b-1, b} x[c, i + d, j + e] w[c, o, 1 + a - 2d, 1 + b - 2e]
//   dx[c, i, j]          = sum_{o, p, q} dy[o, 2i - 1 + p, 2j - 1 + q] w[c, o, p, q]
//   dw[c, o, p, q]       = sum_{n, i, j} x[c, i, j] dy[o, 2i - 1 + p, 2j - 1 + q]
//
// y and dx are one product of the same form (line_product): lanes are neighbouring columns, the results of several channels stay
// in registers, a weight is read once for two vectors of columns. A unit copies what it reads into a tile of float with borders
// of zeros, channel by channel; so layouts and types meet only where tiles are loaded and stored. For dw lanes run over
// (q, o), which are neighbours in a tile with the channels innermost: four pixels of dy meet one broadcast pixel of x.
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
using gcn::cpu::upsample::Tiling;
using gcn::cpu::upsample::Unit;

// The same for the weight's gradient: channels of x x vectors of (q, o), beside one weight each and a vector.
constexpr int kGradChannels = kLanes == 16 ? 4 : 3, kGradVectors = kLanes == 16 ? 6 : 4;

// ---------------------------------------------------------------- y

// packed: for each parity (a, b) of y's pixels, for each block of outputs: [d][c][e][block]
static void pack_forward(const Sizes& s, const float* w, float* packed) {
  const ChannelBlocks blocks(s.o, kMostChannels);
  for (int parity = 0; parity < 4; parity++) {
    const int a = parity / 2, b = parity % 2;
    for (int64_t i = 0; i < blocks.number; i++)
      for (int d = a - 1; d <= a; d++)
        for (int64_t c = 0; c < s.c; c++)
          for (int e = b - 1; e <= b; e++)
            for (int64_t o = blocks.begin(i); o < blocks.begin(i + 1); o++)
              *packed++ = w[((c * s.o + o) * 4 + 1 + a - 2 * d) * 4 + 1 + b - 2 * e];
  }
}

// packed: for each block of channels of x: [p][o][q][block]
static void pack_backward(const Sizes& s, const float* w, float* packed) {
  const ChannelBlocks blocks(s.c, kMostChannels);
  for (int64_t i = 0; i < blocks.number; i++)
    for (int p = 0; p < 4; p++)
      for (int64_t o = 0; o < s.o; o++)
        for (int q = 0; q < 4; q++)
          for (int64_t c = blocks.begin(i); c < blocks.begin(i + 1); c++) *packed++ = w[((c * s.o + o) * 4 + p) * 4 + q];
}

struct ForwardScratch {
  int64_t line, wide, x, parts, y, offsets, total;
  ForwardScratch(const Sizes& s, const Tiling& t) {
    line = line_of(t.columns), wide = padded(t.columns);
    x = 0;                                  // [row][c][line]
    parts = x + (t.rows + 2) * s.c * line;  // [b][o][wide]
    y = parts + 2 * s.o * wide;             // [o][2 wide]
    offsets = y + s.o * 2 * wide;           // [a][b] of 4 c
    total = offsets + (16 * s.c + 15) / 16 * 16;
  }
};
static int64_t forward_scratch(const Sizes& s, const Tiling& t) { return ForwardScratch(s, t).total; }

static void forward(const Forward& call, const Tiling& tiling, const float* packed, int64_t unit, float* scratch) {
  const Sizes& s = call.sizes;
  const Unit u(s, tiling, unit);
  const ForwardScratch at(s, tiling);
  const int64_t columns = u.column1 - u.column0, terms = 4 * s.c;
  for (int64_t i = u.row0 - 1; i <= u.row1; i++) {
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
  int32_t* offsets = (int32_t*)(scratch + at.offsets);
  for (int parity = 0; parity < 4; parity++) {
    const int a = parity / 2, b = parity % 2;
    int32_t* next = offsets + parity * terms;
    for (int d = a - 1; d <= a; d++)
      for (int64_t c = 0; c < s.c; c++)
        for (int e = b - 1; e <= b; e++) *next++ = (int32_t)((d * s.c + c) * at.line + e);
  }
  float *parts = scratch + at.parts, *y = scratch + at.y;
  for (int64_t i = u.row0; i < u.row1; i++) {
    const float* x = scratch + at.x + (i - u.row0 + 1) * s.c * at.line + kBorder;
    for (int a = 0; a < 2; a++) {
      for (int b = 0; b < 2; b++) {
        whole_row(x, offsets + (2 * a + b) * terms, terms, packed + (2 * a + b) * terms * s.o, call.bias, s.o, columns,
                  parts + b * s.o * at.wide, at.wide);
      }
      for (int64_t o = 0; o < s.o; o++) {
        const float *even = parts + o * at.wide, *odd = even + s.o * at.wide;
        for (int64_t j = 0; j < columns; j += kLanes) {
          const Vec l = load(even + j), r = load(odd + j);
          store(y + o * 2 * at.wide + 2 * j, shuffle<Interleave<0>>(l, r));
          store(y + o * 2 * at.wide + 2 * j + kLanes, shuffle<Interleave<1>>(l, r));
        }
      }
      store_row(call.y, {u.n, 2 * i + a, 2 * u.column0, 2 * columns, s.o}, y, 2 * at.wide);
    }
  }
}

// ---------------------------------------------------------------- dx and dw

struct BackwardScratch {
  int64_t line, wide, pixels, dy, whole, dx, x, turned, part, offsets, total;
  BackwardScratch(const Sizes& s, const Tiling& t) {
    const int64_t rows = 2 * t.rows + 2;
    line = line_of(t.columns), wide = padded(t.columns);
    pixels = (2 * t.columns + 2) * padded_outputs(s.o);  // of a turned row
    dy = 0;                                              // [row][o][parity of the column][line]
    whole = dy + rows * s.o * 2 * line;                  // a row as it lies in memory, [o][2 wide]
    dx = whole + s.o * 2 * wide;                         // [c][wide]
    x = dx + s.c * wide;                                 // [c][wide]
    turned = x + s.c * wide;                             // [row][column][o]
    part = turned + (rows * pixels + 15) / 16 * 16;      // [c][p][q][o]
    offsets = part + s.c * 16 * padded_outputs(s.o);
    total = offsets + (16 * s.o + 15) / 16 * 16;
  }
};
static int64_t backward_scratch(const Sizes& s, const Tiling& t) { return BackwardScratch(s, t).total; }

// Even columns 2 column0 .. 2 column1 and odd ones 2 column0 - 1 .. 2 column1 - 1 of a row of dy.
static void load_parities(const Backward& call, const Unit& u, int64_t row, const BackwardScratch& at, float* whole,
                          float* tile) {
  const Sizes& s = call.sizes;
  const int64_t columns = u.column1 - u.column0;
  const bool outside = row < 0 || row >= 2 * s.h;
  if (!outside) load_row(call.dy, {u.n, row, 2 * u.column0, 2 * columns, s.o}, whole, 2 * at.wide);
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
    clear(outside ? even - kBorder : even + columns, odd - kBorder);
    clear(outside ? odd - kBorder : odd + columns, odd - kBorder + at.line);
    if (outside) continue;
    const int64_t first = offset_of(call.dy, {u.n, row, 2 * u.column0, 0, 0}) + o * call.dy.stride_c;
    odd[-1] = u.column0 > 0 ? load_element(call.dy, first - call.dy.stride_w) : 0;
    if (u.column1 < s.w) even[columns] = load_element(call.dy, first + 2 * columns * call.dy.stride_w);
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
  const int64_t columns = u.column1 - u.column0, width = padded_outputs(s.o), size = s.c * 16 * width;
  float *x = scratch + at.x, *turned = scratch + at.turned, *part = scratch + at.part;
  for (int64_t row = 0; row < 2 * (u.row1 - u.row0) + 2; row++) {
    turn(s, columns, at.line, scratch + at.dy + row * s.o * 2 * at.line, turned + row * at.pixels);
  }
  clear(part, part + size);
  const ChannelBlocks channels(s.c, kGradChannels), vectors(4 * width / kLanes, kGradVectors);
  const std::make_index_sequence<kGradChannels> counts;
  for (int64_t i = u.row0; i < u.row1; i++) {
    load_row(call.x, {u.n, i, u.column0, columns, s.c}, x, at.wide);
    for (int p = 0; p < 4; p++) {
      const float* dy = turned + (2 * (i - u.row0) + p) * at.pixels;
      for (int64_t v = 0; v < vectors.number; v++)
        for (int64_t b = 0; b < channels.number; b++) {
          const int64_t c = channels.begin(b), first = vectors.begin(v) * kLanes;
          choose_grad_product(channels.size(b), vectors.size(v), counts)(x + c * at.wide, at.wide, columns, dy + first, 2 * width,
                                                                         part + (c * 4 + p) * 4 * width + first, 16 * width);
        }
    }
  }
  for (int64_t i = 0; i < size; i++) sum[i] += part[i];
}

static void backward(const Backward& call, const Tiling& tiling, const float* packed, int64_t unit, float* scratch, float* sum) {
  const Sizes& s = call.sizes;
  const Unit u(s, tiling, unit);
  const BackwardScratch at(s, tiling);
  const int64_t columns = u.column1 - u.column0, terms = 16 * s.o, row_size = s.o * 2 * at.line;
  for (int64_t row = 2 * u.row0 - 1; row <= 2 * u.row1; row++) {
    load_parities(call, u, row, at, scratch + at.whole, scratch + at.dy + (row - 2 * u.row0 + 1) * row_size);
  }
  if (call.dx.data) {
    int32_t *offsets = (int32_t*)(scratch + at.offsets), *next = offsets;
    for (int p = 0; p < 4; p++)
      for (int64_t o = 0; o < s.o; o++)
        for (int q = 0; q < 4; q++) {
          const int odd = 1 - q % 2, shift = (q == 3) - (q == 0);
          *next++ = (int32_t)((2 * (p * s.o + o) + odd) * at.line + shift);
        }
    for (int64_t i = u.row0; i < u.row1; i++) {
      whole_row(scratch + at.dy + 2 * (i - u.row0) * row_size + kBorder, offsets, terms, packed, nullptr, s.c, columns,
                scratch + at.dx, at.wide);
      store_row(call.dx, {u.n, i, u.column0, columns, s.c}, scratch + at.dx, at.wide);
    }
  }
  if (call.weight) weight_gradient(call, u, at, scratch, sum);
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
