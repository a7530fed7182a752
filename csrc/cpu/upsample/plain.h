// The doubling in plain loops over dense copies: for float64, and for compilers without vector types. And the gradient of the
// bias, a sum.
#pragma once

#include <algorithm>
#include <vector>

#include "../dense.h"
#include "../parallel.h"

namespace gcn::cpu {
namespace upsample {

// The positions i of x whose tap reaches position 2i - 1 + tap inside of a doubled axis: all but one at one end.
struct Inside {
  int64_t begin, end;
  Inside(int64_t size, int tap) : begin(tap == 0 ? 1 : 0), end(tap == 3 ? size - 1 : size) {}
};

template <class A>
void forward_plain(const Map& x, const Map& weight, const A* bias, const Map& y) {
  const std::vector<A> from = dense_copy<A>(x), w = dense_copy<A>(weight);
  for_each_unit(y.n * y.c, [&](int64_t unit) {
    const int64_t n = unit / y.c, o = unit % y.c;
    std::vector<A> plane(static_cast<size_t>(y.h * y.w), bias ? bias[o] : A(0));
    for (int64_t c = 0; c < x.c; ++c) {
      const A *in = from.data() + (n * x.c + c) * x.h * x.w, *taps = w.data() + (c * y.c + o) * 16;
      for (int p = 0; p < 4; ++p) {
        const Inside rows(x.h, p);
        for (int64_t i = rows.begin; i < rows.end; ++i) {
          for (int q = 0; q < 4; ++q) {
            const Inside columns(x.w, q);
            A* out = plane.data() + (2 * i - 1 + p) * y.w - 1 + q;
            for (int64_t j = columns.begin; j < columns.end; ++j) out[2 * j] += taps[p * 4 + q] * in[i * x.w + j];
          }
        }
      }
    }
    store_tile(y, {n, 0, y.h, 0, y.w}, o, o + 1, plane.data(), 1, y.h * y.w);
  });
}

// Gradients whose data is null are left out.
template <class A>
void backward_plain(const Map& dy, const Map& x, const Map& weight, const Map& dx, const Map& dw) {
  const std::vector<A> from = dense_copy<A>(dy), in = dense_copy<A>(x), w = dense_copy<A>(weight);
  const int64_t plane = x.h * x.w;
  if (dx.data) {
    for_each_unit(x.n * x.c, [&](int64_t unit) {
      const int64_t n = unit / x.c, c = unit % x.c;
      std::vector<A> sum(static_cast<size_t>(plane), A(0));
      for (int64_t o = 0; o < dy.c; ++o) {
        const A *g = from.data() + (n * dy.c + o) * dy.h * dy.w, *taps = w.data() + (c * dy.c + o) * 16;
        for (int p = 0; p < 4; ++p) {
          const Inside rows(x.h, p);
          for (int64_t i = rows.begin; i < rows.end; ++i) {
            for (int q = 0; q < 4; ++q) {
              const Inside columns(x.w, q);
              const A* line = g + (2 * i - 1 + p) * dy.w - 1 + q;
              for (int64_t j = columns.begin; j < columns.end; ++j) sum[i * x.w + j] += taps[p * 4 + q] * line[2 * j];
            }
          }
        }
      }
      store_tile(dx, {n, 0, x.h, 0, x.w}, c, c + 1, sum.data(), 1, plane);
    });
  }
  if (dw.data) {
    for_each_unit(x.c, [&](int64_t c) {
      std::vector<A> sums(static_cast<size_t>(dy.c * 16));
      for (int64_t o = 0; o < dy.c; ++o) {
        for (int p = 0; p < 4; ++p) {
          for (int q = 0; q < 4; ++q) {
            const Inside rows(x.h, p), columns(x.w, q);
            double sum = 0;
            for (int64_t n = 0; n < x.n; ++n) {
              for (int64_t i = rows.begin; i < rows.end; ++i) {
                const A* line = from.data() + ((n * dy.c + o) * dy.h + 2 * i - 1 + p) * dy.w - 1 + q;
                const A* row = in.data() + (n * x.c + c) * plane + i * x.w;
                double part = 0;
                for (int64_t j = columns.begin; j < columns.end; ++j) part += static_cast<double>(row[j]) * line[2 * j];
                sum += part;
              }
            }
            sums[o * 16 + p * 4 + q] = static_cast<A>(sum);
          }
        }
      }
      store_tile(dw, {c, 0, 4, 0, 4}, 0, dy.c, sums.data(), 1, 16);
    });
  }
}

// to[o] = the sum of dy over all pixels of all images, in double, line by line.
inline void bias_gradient(const Map& dy, void* to) {
  std::vector<double> sums(static_cast<size_t>(dy.c));
  for_each_unit(dy.c, [&](int64_t o) {
    std::vector<double> line(static_cast<size_t>(dy.w));
    for (int64_t i = 0; i < dy.n * dy.h; ++i) {
      const int64_t row = i % dy.h;
      load_tile(dy, {i / dy.h, row, row + 1, 0, dy.w}, o, o + 1, line.data(), 1, dy.w);
      double part = 0;
      for (const double value : line) part += value;
      sums[o] += part;
    }
  });
  with_storage_type(dy.dtype, [&](auto storage) {
    for (int64_t o = 0; o < dy.c; ++o) static_cast<decltype(storage)*>(to)[o] = static_cast<decltype(storage)>(sums[o]);
  });
}

}  // namespace upsample
}  // namespace gcn::cpu
