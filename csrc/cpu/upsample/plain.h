// The doubling in plain loops over dense copies: for float64, for compilers without vector types, and where a weight or a sum is
// not finite, since no product is made here that the definition does not have. And the gradient of the bias, a sum.
#pragma once

#include <algorithm>
#include <vector>

#include "../dense.h"
#include "../parallel.h"
#include "kernels.h"

namespace gcn::cpu {
namespace upsample {

// The positions i of x whose tap reaches a position inside of the doubled axis, 2i + first: all but one at one end.
struct Inside {
  int64_t first, begin, end;
  Inside(const Sizes& s, int64_t size, int64_t tap)
      : first(tap - s.pad()), begin(first < 0 ? 1 : 0), end(first > 1 ? size - 1 : size) {}
};

// The weights between channel c of x and channel o of y.
template <class A>
const A* taps_between(const Sizes& s, const std::vector<A>& w, int64_t c, int64_t o) {
  return w.data() + (c * s.outputs() + (s.depthwise ? 0 : o)) * s.taps();
}

// f(p, q, rows, columns) for every tap.
template <class F>
void for_each_tap(const Sizes& s, const F& f) {
  for (int64_t p = 0; p < s.k; ++p)
    for (int64_t q = 0; q < s.k; ++q) f(p, q, Inside(s, s.h, p), Inside(s, s.w, q));
}

// add: null data for none.
template <class A>
void forward_plain(const Sizes& s, const Map& x, const Map& weight, const A* bias, const Map& add, const Map& y) {
  const std::vector<A> from = dense_copy<A>(x), w = dense_copy<A>(weight);
  for_each_unit(s.n * s.o, [&](int64_t unit) {
    const int64_t n = unit / s.o, o = unit % s.o, width = 2 * s.w;
    std::vector<A> plane(static_cast<size_t>(2 * s.h * width), bias ? bias[o] : A(0));
    for (int64_t c = s.depthwise ? o : 0; c < (s.depthwise ? o + 1 : s.c); ++c) {
      const A *in = from.data() + (n * s.c + c) * s.h * s.w, *taps = taps_between(s, w, c, o);
      for_each_tap(s, [&](int64_t p, int64_t q, const Inside& rows, const Inside& columns) {
        for (int64_t i = rows.begin; i < rows.end; ++i) {
          A* out = plane.data() + (2 * i + rows.first) * width + columns.first;
          for (int64_t j = columns.begin; j < columns.end; ++j) out[2 * j] += taps[p * s.k + q] * in[i * s.w + j];
        }
      });
    }
    const Rect kept{n, 0, s.yh, 0, s.yw};
    std::vector<A> result(static_cast<size_t>(s.yh * s.yw)), lateral(add.data ? result.size() : 0);
    for (int64_t i = 0; i < s.yh; ++i) std::copy_n(plane.data() + i * width, s.yw, result.data() + i * s.yw);
    if (add.data) {
      load_tile(add, kept, o, o + 1, lateral.data(), 1, s.yh * s.yw);
      with_storage_type(y.dtype, [&](auto storage) {
        // Rounded first: the sum of two maps.
        for (size_t i = 0; i < result.size(); ++i) {
          result[i] = static_cast<A>(static_cast<decltype(storage)>(result[i])) + lateral[i];
        }
      });
    }
    store_tile(y, kept, o, o + 1, result.data(), 1, s.yh * s.yw);
  });
}

// dy as the gradient of the whole doubled map: zero where nothing was kept.
template <class A>
std::vector<A> whole_gradient(const Sizes& s, const Map& dy) {
  const int64_t width = 2 * s.w, plane = 2 * s.h * width;
  std::vector<A> to(static_cast<size_t>(s.n * s.o * plane), A(0));
  for_each_unit(s.n * s.yh, [&](int64_t unit) {
    const int64_t n = unit / s.yh, i = unit % s.yh;
    load_tile(dy, {n, i, i + 1, 0, s.yw}, 0, s.o, to.data() + n * s.o * plane + i * width, 1, plane);
  });
  return to;
}

// Gradients whose data is null are left out.
template <class A>
void backward_plain(const Sizes& s, const Map& dy, const Map& x, const Map& weight, const Map& dx, const Map& dw) {
  const std::vector<A> from = whole_gradient<A>(s, dy), in = dense_copy<A>(x), w = dense_copy<A>(weight);
  const int64_t plane = s.h * s.w, width = 2 * s.w;
  if (dx.data) {
    for_each_unit(s.n * s.c, [&](int64_t unit) {
      const int64_t n = unit / s.c, c = unit % s.c;
      std::vector<A> sum(static_cast<size_t>(plane), A(0));
      for (int64_t o = s.depthwise ? c : 0; o < (s.depthwise ? c + 1 : s.o); ++o) {
        const A *g = from.data() + (n * s.o + o) * 4 * plane, *taps = taps_between(s, w, c, o);
        for_each_tap(s, [&](int64_t p, int64_t q, const Inside& rows, const Inside& columns) {
          for (int64_t i = rows.begin; i < rows.end; ++i) {
            const A* line = g + (2 * i + rows.first) * width + columns.first;
            for (int64_t j = columns.begin; j < columns.end; ++j) sum[i * s.w + j] += taps[p * s.k + q] * line[2 * j];
          }
        });
      }
      store_tile(dx, {n, 0, s.h, 0, s.w}, c, c + 1, sum.data(), 1, plane);
    });
  }
  if (dw.data) {
    for_each_unit(s.c, [&](int64_t c) {
      std::vector<A> sums(static_cast<size_t>(s.outputs() * s.taps()));
      for (int64_t at = 0; at < s.outputs(); ++at) {
        const int64_t o = s.depthwise ? c : at;
        for_each_tap(s, [&](int64_t p, int64_t q, const Inside& rows, const Inside& columns) {
          double sum = 0;
          for (int64_t n = 0; n < s.n; ++n) {
            for (int64_t i = rows.begin; i < rows.end; ++i) {
              const A* line = from.data() + ((n * s.o + o) * 2 * s.h + 2 * i + rows.first) * width + columns.first;
              const A* row = in.data() + (n * s.c + c) * plane + i * s.w;
              double part = 0;
              for (int64_t j = columns.begin; j < columns.end; ++j) part += static_cast<double>(row[j]) * line[2 * j];
              sum += part;
            }
          }
          sums[at * s.taps() + p * s.k + q] = static_cast<A>(sum);
        });
      }
      store_tile(dw, {c, 0, s.k, 0, s.k}, 0, s.outputs(), sums.data(), 1, s.taps());
    });
  }
}

// sums[o] += the sum of n numbers of each line, in chains enough for a processor that waits for an addition to begin others.
inline void add_lines(const double* lines, int64_t count, int64_t n, double* sums) {
  constexpr int64_t kChains = 16;
  for (int64_t o = 0; o < count; ++o, lines += n) {
    double chains[kChains] = {};
    const int64_t whole = n / kChains * kChains;
    for (int64_t i = 0; i < whole; i += kChains)
      for (int64_t k = 0; k < kChains; ++k) chains[k] += lines[i + k];
    for (int64_t i = whole; i < n; ++i) chains[i - whole] += lines[i];
    for (const double chain : chains) sums[o] += chain;
  }
}

// to[o] = the sum of dy over all pixels of all images, in double. Where channels are neighbours, they are added side by side.
inline void bias_gradient(const Map& dy, void* to) {
  constexpr int64_t kRows = 8;
  const int64_t c = dy.c, w = dy.w, rows = dy.n * dy.h, units = (rows + kRows - 1) / kRows;
  std::vector<double> parts(static_cast<size_t>(units * c)), sums(static_cast<size_t>(c));
  for_each_unit(units, [&](int64_t unit) {
    std::vector<double> row(static_cast<size_t>(c * w));
    double* const part = parts.data() + unit * c;
    for (int64_t i = unit * kRows; i < std::min(rows, (unit + 1) * kRows); ++i) {
      const Rect line{i / dy.h, i % dy.h, i % dy.h + 1, 0, w};
      if (dy.sc == 1) {
        load_tile(dy, line, 0, c, row.data(), c, 1);
        const double* values = row.data();
        for (int64_t j = 0; j < w; ++j)
          for (int64_t o = 0; o < c; ++o) part[o] += *values++;
      } else {
        load_tile(dy, line, 0, c, row.data(), 1, w);
        add_lines(row.data(), c, w, part);
      }
    }
  });
  for (int64_t unit = 0; unit < units; ++unit)
    for (int64_t o = 0; o < c; ++o) sums[o] += parts[unit * c + o];
  with_storage_type(dy.dtype, [&](auto storage) {
    for (int64_t o = 0; o < c; ++o) static_cast<decltype(storage)*>(to)[o] = static_cast<decltype(storage)>(sums[o]);
  });
}

}  // namespace upsample
}  // namespace gcn::cpu
