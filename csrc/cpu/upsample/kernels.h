// Doubling of a map, a transposed convolution with stride 2, on vectors: what the driver (upsample_cpu.cpp) asks of the build for
// one instruction set (kernels_isa.inl), and how a map is cut into units of work.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../fft/backend.h"

namespace gcn::cpu {
namespace upsample {

struct Sizes {
  int64_t n, c, o, h, w;  // x [n, c, h, w] -> y [n, o, yh, yw], the first rows and columns of 2h x 2w
  int64_t yh, yw;
  int64_t k;       // of the kernel k x k, 2, 3 or 4: y[2i - pad + t] hears x[i] through tap t, along both axes
  bool depthwise;  // o = c, and each channel is a map of its own

  int64_t pad() const { return k > 2 ? 1 : 0; }
  int64_t taps() const { return k * k; }
  int64_t outputs() const { return depthwise ? 1 : o; }  // that a channel of x has weights for
  int64_t weights() const { return c * outputs() * taps(); }
};

// Along one axis, what the positions of one parity hear: y[2i + parity] hears x[i + shift] through tap.
struct Taps {
  int count = 0, shift[2], tap[2];

  Taps(const Sizes& s, int parity) {
    for (int d = -1; d <= 1; d++) {
      const int t = parity + (int)s.pad() - 2 * d;
      if (t >= 0 && t < s.k) shift[count] = d, tap[count++] = t;
    }
  }
};

// A unit is a rectangle of x in one image. The sizes of the problem alone decide it, so that results do not depend on threads.
struct Tiling {
  int64_t rows, columns;            // of a unit, at most
  int64_t row_tiles, column_tiles;  // of an image
  int64_t units;

  Tiling(const Sizes& s, int64_t most_columns) : rows(4), columns(std::min(s.w, most_columns)) {
    const auto count = [](int64_t size, int64_t part) { return (size + part - 1) / part; };
    constexpr int64_t kWantedUnits = 16, kMostFloats = 256 << 10;
    while (rows > 1 && (s.n * count(s.h, rows) * count(s.w, columns) < kWantedUnits ||
                        (rows + 2) * (columns + 32) * (s.c + s.o) > kMostFloats))
      rows /= 2;
    while (columns > 32 && (rows + 2) * (columns + 32) * (s.c + s.o) > kMostFloats) columns = (columns / 2 + 31) / 32 * 32;
    row_tiles = count(s.h, rows), column_tiles = count(s.w, columns), units = s.n * row_tiles * column_tiles;
  }
};

struct Unit {
  int64_t n, row0, row1, column0, column1;

  Unit(const Sizes& s, const Tiling& t, int64_t i)
      : n(i / (t.row_tiles * t.column_tiles)),
        row0(i / t.column_tiles % t.row_tiles * t.rows),
        row1(std::min(s.h, row0 + t.rows)),
        column0(i % t.column_tiles * t.columns),
        column1(std::min(s.w, column0 + t.columns)) {}

  int64_t columns() const { return column1 - column0; }
  // Columns of y, of those that x's columns of the unit become, that are kept.
  int64_t kept(const Sizes& s) const { return std::clamp<int64_t>(s.yw - 2 * column0, 0, 2 * columns()); }
};

// Weights are dense [c, outputs, k, k]. A gradient that is not wanted is null.
struct Forward {
  Sizes sizes;
  fft::ConstImage x;
  fft::ConstImage add;  // added to y; null: none
  fft::Image y;
  const float* bias;  // null: none
};
struct Backward {
  Sizes sizes;
  fft::ConstImage dy, x;
  fft::Image dx;
  bool weight;  // whether the weight's gradient is wanted
};

struct Kernels {
  // Weights in the order in which a pass reads them, s.weights() floats.
  void (*pack_forward)(const Sizes&, const float* w, float* packed);
  void (*pack_backward)(const Sizes&, const float* w, float* packed);
  int64_t (*forward_scratch)(const Sizes&, const Tiling&);  // floats that a unit needs
  int64_t (*backward_scratch)(const Sizes&, const Tiling&);
  void (*forward)(const Forward&, const Tiling&, const float* packed, int64_t unit, float* scratch);
  // Adds the unit's part of the weight's gradient to sum [c, k (kh), sum_pitch(s)], a row of which is
  // [k (kw), padded_outputs(outputs)] and what fills it up to whole vectors.
  void (*backward)(const Backward&, const Tiling&, const float* packed, int64_t unit, float* scratch, float* sum);
};

inline int64_t padded_outputs(int64_t o) { return (o + 3) / 4 * 4; }
inline int64_t sum_pitch(const Sizes& s) { return (s.k * padded_outputs(s.outputs()) + 15) / 16 * 16; }
inline int64_t sum_size(const Sizes& s) { return s.c * s.k * sum_pitch(s); }

extern const Kernels kPortableKernels, kAvx2Kernels, kAvx512Kernels;

}  // namespace upsample
}  // namespace gcn::cpu
