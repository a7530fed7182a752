// Doubling of a map, the 4x4 transposed convolution with stride 2 and padding 1, on vectors: what the driver (upsample_cpu.cpp)
// asks of the build for one instruction set (kernels_isa.inl), and how a map is cut into units of work.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../fft/backend.h"

namespace gcn::cpu {
namespace upsample {

struct Sizes {
  int64_t n, c, o, h, w;  // x [n, c, h, w] -> y [n, o, 2h, 2w]
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
};

// Weights are dense [c, o, 4, 4]. A gradient that is not wanted is null.
struct Forward {
  Sizes sizes;
  fft::ConstImage x;
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
  // Weights in the order in which a pass reads them, 16 c o floats.
  void (*pack_forward)(const Sizes&, const float* w, float* packed);
  void (*pack_backward)(const Sizes&, const float* w, float* packed);
  int64_t (*forward_scratch)(const Sizes&, const Tiling&);  // floats that a unit needs
  int64_t (*backward_scratch)(const Sizes&, const Tiling&);
  void (*forward)(const Forward&, const Tiling&, const float* packed, int64_t unit, float* scratch);
  // Adds the unit's part of the weight's gradient to sum [c, 4 (kh), 4 (kw), padded_outputs(o)].
  void (*backward)(const Backward&, const Tiling&, const float* packed, int64_t unit, float* scratch, float* sum);
};

inline int64_t padded_outputs(int64_t o) { return (o + 3) / 4 * 4; }

extern const Kernels kPortableKernels, kAvx2Kernels, kAvx512Kernels;

}  // namespace upsample
}  // namespace gcn::cpu
