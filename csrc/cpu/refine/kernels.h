// Boundary refinement, y = x + conv3x3(relu(conv3x3(x))), on vectors: what the driver (refine_cpu.cpp) asks of the build for one
// instruction set (kernels_isa.inl), and how a problem is cut into units of work.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../fft/backend.h"

namespace gcn::cpu {
namespace refine {

struct Sizes {
  int64_t n, c, m, h, w;  // x and y [n, c, h, w], between the convolutions [n, m, h, w]
};

// A convolution makes its results in bands of 4 rows, those of the first one from the rows 4b on. What follows it needs a row
// more on either side, so its bands begin at the rows 4b - 1: when band b of the first is done, so can be that of the second.
constexpr int64_t kBand = 4, kWindow = kBand + 2;

// A unit is a part of the bands and columns of one image. Next to its edges it computes the first convolution's results that
// belong to other units again.
struct Tiling {
  int64_t bands;                // of an image: the last one completes the second convolution
  int64_t columns;              // of a unit, at most
  int64_t parts, column_parts;  // of an image's bands and columns
  int64_t units;

  // wanted_units: that many, if units of 8 bands allow. The columns depend on the sizes alone.
  Tiling(const Sizes& s, int64_t wanted_units) : bands(s.h / kBand + 1) {
    constexpr int64_t kMostFloats = 160 << 10, kLeastBands = 8, kVector = 64;
    const auto count = [](int64_t size, int64_t part) { return (size + part - 1) / part; };
    const int64_t most_columns = std::max(kMostFloats / (kWindow * (s.c + s.m)) / kVector * kVector, kVector);
    columns = count(count(s.w, count(s.w, most_columns)), kVector) * kVector;
    column_parts = count(s.w, columns);
    parts = std::clamp<int64_t>(count(wanted_units, std::max<int64_t>(s.n * column_parts, 1)), 1,
                                std::max<int64_t>(bands / kLeastBands, 1));
    units = s.n * parts * column_parts;
  }
};

struct Unit {
  int64_t n, band0, band1, column0, column1;

  Unit(const Sizes& s, const Tiling& t, int64_t i)
      : n(i / (t.parts * t.column_parts)),
        band0(i / t.column_parts % t.parts * t.bands / t.parts),
        band1((i / t.column_parts % t.parts + 1) * t.bands / t.parts),
        column0(i % t.column_parts * t.columns),
        column1(std::min(s.w, column0 + t.columns)) {}
};

// Weights come packed, as the kernels want them; biases may be null.
struct Forward {
  Sizes sizes;
  fft::ConstImage x;
  fft::Image y;
  const float *w1, *w2;
  const float *b1, *b2;
};
struct Backward {
  Sizes sizes;
  fft::ConstImage dy, x;
  fft::Image dx;                // without data: not wanted
  const float *w1, *w2t, *w1t;  // packed; the last two turned round: of the convolutions that go back. w1t: null without dx
  const float* b1;
  bool weights, biases;  // whether any gradient of these is wanted
  bool careful;          // direct method: exactly as the definition says where values are not finite, and slowly
};

// Gradients of weights and biases, sums over pixels: w1 [m][kh][c][kw], w2 [m][2 - kh][c][2 - kw], b1 [m], b2 [c].
struct Sums {
  int64_t w1, w2, b1, b2, total;
  explicit Sums(const Sizes& s) : w1(0), w2(s.m * 9 * s.c), b1(2 * w2), b2(b1 + s.m), total(b2 + s.c) {}
};

struct Method {
  // w[outputs][inputs][3][3] as the passes want it.
  int64_t (*packed_size)(int64_t outputs, int64_t inputs);
  void (*pack)(int64_t outputs, int64_t inputs, const float* w, float* packed);
  int64_t (*forward_scratch)(const Sizes&, const Tiling&);  // floats that a unit needs
  int64_t (*backward_scratch)(const Sizes&, const Tiling&);
  // False: values that are not finite may have spread too far; the direct method says what is right.
  bool (*forward)(const Forward&, const Tiling&, int64_t unit, float* scratch);
  bool (*backward)(const Backward&, const Tiling&, int64_t unit, float* scratch, float* sums);  // adds to the sums
};

struct Kernels {
  Method direct, winograd;
};

extern const Kernels kPortableKernels, kAvx2Kernels, kAvx512Kernels;

}  // namespace refine
}  // namespace gcn::cpu
