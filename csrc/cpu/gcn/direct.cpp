#include "direct.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>

#include "../parallel.h"

namespace gcn::cpu {
namespace {

// A tile's widest operand, T or G, is kept to about half of a 1 MB L2 cache; the other half is for x and the weights.
constexpr int64_t kTileBytes = 448 << 10;
constexpr int64_t kMinPixels = 32, kMaxPixels = 512;
// Columns of a product whose result cannot be written in place.
constexpr int64_t kMaxColumns = 512;
// Below this many multiply-adds, waking another thread costs more than it saves (and the matrix library uses one, too).
constexpr int64_t kSerialWork = 1 << 17;

// Scratch of the calling thread, kept between calls. The contents do not survive the next request.
template <class A>
A* scratch(int64_t count) {
  struct Buffer {
    std::unique_ptr<A[]> data;
    int64_t size = 0;
  };
  thread_local Buffer buffer;
  if (count > buffer.size) {
    buffer.data.reset(new A[static_cast<size_t>(count)]);
    buffer.size = count;
  }
  return buffer.data.get();
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class F>
void run_units(int64_t units, int64_t work, const F& f) {
  if (work >= kSerialWork) return for_each_unit(units, f);
  for (int64_t i = 0; i < units; ++i) f(i);
}

// Rectangles of at most `pixels` pixels that cover the map; whole rows where a row fits.
class Tiling {
 public:
  Tiling(const Map& map, int64_t pixels)
      : map_(map),
        cols_(std::min(map.w, pixels)),
        rows_(std::min(map.h, std::max<int64_t>(1, pixels / cols_))),
        across_(ceil_div(map.w, cols_)),
        down_(ceil_div(map.h, rows_)) {}

  int64_t count() const { return map_.n * across_ * down_; }
  Rect operator[](int64_t i) const {
    const int64_t w0 = i % across_ * cols_, h0 = i / across_ % down_ * rows_;
    return {i / (across_ * down_), h0, std::min(map_.h, h0 + rows_), w0, std::min(map_.w, w0 + cols_)};
  }

 private:
  Map map_;
  int64_t cols_, rows_, across_, down_;
};

int64_t pixels_for(int64_t columns, size_t element) {
  return std::clamp<int64_t>(kTileBytes / (columns * static_cast<int64_t>(element)), kMinPixels, kMaxPixels);
}

// The tile as a matrix [pixels, c1 - c0], if its memory already is one.
template <class A>
bool in_place(const Map& map, const Rect& r, int64_t c0, int64_t c1, Matrix<A>* out) {
  const int64_t columns = c1 - c0;
  const bool one_pixel_stride = r.rows() == 1 || map.sh == r.cols() * map.sw;
  const bool by_pixel = map.sc == 1 && map.sw >= columns, by_channel = map.sw == 1 && map.sc >= r.pixels();
  if (map.dtype != scalar_type_of<A>() || !one_pixel_stride || !(by_pixel || by_channel)) return false;
  A* data = static_cast<A*>(map.data) + r.n * map.sn + c0 * map.sc + r.h0 * map.sh + r.w0 * map.sw;
  *out = {data, r.pixels(), columns, map.sw, map.sc};
  return true;
}

// A dense tile in `buffer` whose inner index is the one that is contiguous in the map.
template <class A>
Matrix<A> packed(const Map& map, const Rect& r, int64_t columns, A* buffer) {
  if (map.sc <= map.sw) return dense(buffer, r.pixels(), columns);
  return transposed(dense(buffer, columns, r.pixels()));
}

template <class A>
Matrix<A> load(const Map& map, const Rect& r, int64_t c0, int64_t c1, A* buffer) {
  Matrix<A> tile;
  if (in_place(map, r, c0, c1, &tile)) return tile;
  tile = packed(map, r, c1 - c0, buffer);
  load_tile(map, r, c0, c1, buffer, tile.row_stride, tile.col_stride);
  return tile;
}

// u[p + k / 2 - t, :] += T[p, t - t0, :] for the taps [t0, t1), where the target lies inside the map.
template <class A>
void shift_and_add(const Scatter<A>& b, const Rect& r, int64_t height, int64_t width, int64_t t0, int64_t t1, const A* t_tile) {
  const int64_t half = b.k / 2, length = b.axis == Axis::H ? height : width;
  const int64_t step = (b.axis == Axis::H ? width : 1) * b.m;
  const A* t_pixel = t_tile;
  for (int64_t h = r.h0; h < r.h1; ++h) {
    for (int64_t w = r.w0; w < r.w1; ++w, t_pixel += (t1 - t0) * b.m) {
      const int64_t at = b.axis == Axis::H ? h : w;
      const int64_t first = std::max(t0, at + half - (length - 1)), last = std::min(t1, at + half + 1);
      A* u = b.u + ((r.n * height + h) * width + w) * b.m + half * step;
      for (int64_t t = first; t < last; ++t) {
        A* target = u - t * step;
        const A* source = t_pixel + (t - t0) * b.m;
        for (int64_t m = 0; m < b.m; ++m) target[m] += source[m];
      }
    }
  }
}

// All lines of one strip: `strip` lines side by side, from end to end, in segments of `segment` samples.
template <class A>
void scatter_strip(const Map& x, const Scatter<A>& b, int64_t n, int64_t begin, int64_t end, int64_t segment, int64_t taps) {
  const bool vertical = b.axis == Axis::H;
  const int64_t length = vertical ? x.h : x.w;
  const auto rect = [&](int64_t from, int64_t to) {
    return vertical ? Rect{n, from, to, begin, end} : Rect{n, begin, end, from, to};
  };
  // f(first pixel of a row of the strip in u)
  const auto each_row = [&](const auto& f) {
    const Rect all = rect(0, length);
    for (int64_t h = all.h0; h < all.h1; ++h) f(b.u + ((n * x.h + h) * x.w + all.w0) * b.m, all.cols());
  };
  each_row([&](A* u, int64_t count) { std::fill_n(u, count * b.m, A(0)); });
  const int64_t pixels = segment * (end - begin);
  A* x_tile = scratch<A>(pixels * (x.c + taps * b.m));
  A* t_tile = x_tile + pixels * x.c;
  const Matrix<const A> w = dense(b.w, x.c, b.k * b.m);
  for (int64_t from = 0; from < length; from += segment) {
    const Rect r = rect(from, std::min(length, from + segment));
    const Matrix<const A> x_matrix = load(x, r, 0, x.c, x_tile);
    for (int64_t t0 = 0; t0 < b.k; t0 += taps) {
      const int64_t t1 = std::min(b.k, t0 + taps);
      multiply(dense(t_tile, r.pixels(), (t1 - t0) * b.m), x_matrix, columns(w, t0 * b.m, t1 * b.m));
      shift_and_add(b, r, x.h, x.w, t0, t1, t_tile);
    }
  }
  if (!b.bias) return;
  // Last, so that the sums before it are rounded at their own size.
  each_row([&](A* u, int64_t count) {
    for (int64_t i = 0; i < count; ++i, u += b.m)
      for (int64_t m = 0; m < b.m; ++m) u[m] += b.bias[m];
  });
}

// G[p, s * m + i] = u[p + s - k / 2, i], zero outside the map, written into columns of a matrix with `row` columns.
template <class A>
void window_tile(const Window<A>& win, const Rect& r, int64_t height, int64_t width, A* g, int64_t row) {
  const int64_t half = win.k / 2, length = win.axis == Axis::H ? height : width;
  const int64_t step = (win.axis == Axis::H ? width : 1) * win.m;
  for (int64_t h = r.h0; h < r.h1; ++h) {
    for (int64_t w = r.w0; w < r.w1; ++w, g += row) {
      const int64_t at = win.axis == Axis::H ? h : w;
      const int64_t first = std::max<int64_t>(0, half - at), last = std::min(win.k, length + half - at);
      const A* u = win.u + ((r.n * height + h) * width + w) * win.m - half * step;
      std::fill_n(g, first * win.m, A(0));
      if (win.axis == Axis::W) {
        std::copy_n(u + first * step, (last - first) * win.m, g + first * win.m);
      } else {
        for (int64_t s = first; s < last; ++s) std::copy_n(u + s * step, win.m, g + s * win.m);
      }
      std::fill_n(g + last * win.m, (win.k - last) * win.m, A(0));
    }
  }
}

template <class A>
bool all_finite(const A* values, int64_t count) {
  // An infinity or a NaN times zero is a NaN, and stays one in the sum.
  A sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += values[i] * A(0);
  return sum == A(0);
}

// Sums arrays by pairs as they come: sums of 1, 2, 4, ... terms wait on a stack for another of their size. Where the arrays are
// so large that few fit, the last ones are added at once; with room for two, that is one chain.
template <class A>
class SumByPairs {
 public:
  static int64_t depth_for(int64_t terms, int64_t size) {
    const int64_t fit = std::max<int64_t>(2, kStackBytes / (size * static_cast<int64_t>(sizeof(A))));
    return std::min<int64_t>(std::bit_width(static_cast<uint64_t>(terms)), fit);
  }
  // The sum goes to `total`, which is the bottom of the stack; `stack` has room for the other depth - 1 arrays.
  SumByPairs(A* total, A* stack, int64_t depth, int64_t size) : total_(total), stack_(stack), most_(depth), size_(size) {}

  A* next() { return at(depth_); }  // where the next term is to be written
  void add() {
    ++depth_;
    for (int64_t n = ++count_; n % 2 == 0 && depth_ > 1; n /= 2) merge();
    if (depth_ == most_ && depth_ > 1) merge();
  }
  void finish() {
    if (depth_ == 0) std::fill_n(total_, size_, A(0));
    while (depth_ > 1) merge();
  }

 private:
  static constexpr int64_t kStackBytes = 1 << 20;
  A* at(int64_t i) const { return i == 0 ? total_ : stack_ + (i - 1) * size_; }
  void merge() {
    --depth_;
    A* to = at(depth_ - 1);
    const A* from = at(depth_);
    for (int64_t e = 0; e < size_; ++e) to[e] += from[e];
  }

  A *total_, *stack_;
  int64_t most_, size_, depth_ = 0, count_ = 0;
};

enum class NotFinite { kKeep, kAsZero };

// dw of the channels [c0, c1), [c1 - c0, k * m].
template <class A>
void correlate_channels(const Map& x, int64_t c0, int64_t c1, const Window<A>& win, NotFinite what, A* dw) {
  const int64_t window_columns = win.k * win.m, channels = c1 - c0;
  const Tiling tiles(x, pixels_for(window_columns, sizeof(A)));
  const int64_t pixels = tiles[0].pixels(), size = channels * window_columns;
  const int64_t depth = SumByPairs<A>::depth_for(tiles.count(), size);
  A* g = scratch<A>(pixels * (window_columns + channels) + (depth - 1) * size);
  A* x_buffer = g + pixels * window_columns;
  SumByPairs<A> sum(dw, x_buffer + pixels * channels, depth, size);
  for (int64_t j = 0; j < tiles.count(); ++j) {
    const Rect r = tiles[j];
    window_tile(win, r, x.h, x.w, g, window_columns);
    Matrix<A> x_tile;
    if (what == NotFinite::kKeep) {
      x_tile = load(x, r, c0, c1, x_buffer);
    } else {
      x_tile = packed(x, r, channels, x_buffer);
      load_tile(x, r, c0, c1, x_buffer, x_tile.row_stride, x_tile.col_stride);
      std::replace_if(x_buffer, x_buffer + r.pixels() * channels, [](A value) { return !std::isfinite(value); }, A(0));
    }
    multiply(dense(sum.next(), channels, window_columns), transposed(x_tile), dense(g, r.pixels(), window_columns));
    sum.add();
  }
  sum.finish();
}

// The first and the last place along the window's axis where each of the channels [c0, c1) is not finite; none: first > last.
struct Extent {
  int64_t first = std::numeric_limits<int64_t>::max(), last = -1;
};
template <class A>
std::vector<Extent> not_finite_along(const Map& x, int64_t c0, int64_t c1, Axis axis) {
  std::vector<Extent> extents(static_cast<size_t>(c1 - c0));
  const int64_t count = x.w * (c1 - c0);
  const std::unique_ptr<A[]> buffer(new A[static_cast<size_t>(count)]);
  for (int64_t n = 0; n < x.n; ++n)
    for (int64_t h = 0; h < x.h; ++h) {
      const Rect r{n, h, h + 1, 0, x.w};
      const Matrix<A> row = packed(x, r, c1 - c0, buffer.get());
      load_tile(x, r, c0, c1, buffer.get(), row.row_stride, row.col_stride);
      if (all_finite(buffer.get(), count)) continue;
      for (int64_t c = 0; c < c1 - c0; ++c)
        for (int64_t w = 0; w < x.w; ++w) {
          if (std::isfinite(row.data[w * row.row_stride + c * row.col_stride])) continue;
          Extent& extent = extents[static_cast<size_t>(c)];
          const int64_t at = axis == Axis::H ? h : w;
          extent = {std::min(extent.first, at), std::max(extent.last, at)};
        }
    }
  return extents;
}

// G's zeros stand for padding, and a value of x that is not finite makes a NaN of them. Where no pair (pixel of x, pixel of u
// inside the map) of a tap has such a value, the tap's sum is that over x with zeros in their place.
template <class A>
void repair_padding(const Map& x, int64_t c0, int64_t c1, const Window<A>& win, A* dw) {
  const int64_t half = win.k / 2, length = win.axis == Axis::H ? x.h : x.w, size = (c1 - c0) * win.k * win.m;
  const std::vector<Extent> extents = not_finite_along<A>(x, c0, c1, win.axis);
  std::unique_ptr<A[]> finite;
  for (int64_t c = 0; c < c1 - c0; ++c) {
    const Extent& extent = extents[static_cast<size_t>(c)];
    if (extent.first > extent.last) continue;
    for (int64_t s = 0; s < win.k; ++s) {
      const int64_t shift = s - half;
      if (shift >= 0 ? extent.first + shift < length : extent.last + shift >= 0) continue;
      if (!finite) {
        finite.reset(new A[static_cast<size_t>(size)]);
        correlate_channels(x, c0, c1, win, NotFinite::kAsZero, finite.get());
      }
      std::copy_n(finite.get() + (c * win.k + s) * win.m, win.m, dw + (c * win.k + s) * win.m);
    }
  }
}

template <class A>
void add_to_rows(const Matrix<A>& tile, const A* bias) {
  const bool by_row = tile.col_stride == 1;
  for (int64_t i = 0; i < (by_row ? tile.rows : tile.cols); ++i)
    for (int64_t j = 0; j < (by_row ? tile.cols : tile.rows); ++j) {
      if (by_row) {
        tile.data[i * tile.row_stride + j] += bias[j];
      } else {
        tile.data[i * tile.col_stride + j * tile.row_stride] += bias[i];
      }
    }
}

template <class A>
void gather_tile(const std::vector<Window<A>>& windows, const Matrix<const A>& w, const A* bias, const Map& out, const Rect& r) {
  A* g = scratch<A>(r.pixels() * (w.rows + std::min(w.cols, kMaxColumns)));
  A* buffer = g + r.pixels() * w.rows;
  int64_t column = 0;
  for (const auto& win : windows) {
    window_tile(win, r, out.h, out.w, g + column, w.rows);
    column += win.k * win.m;
  }
  for (int64_t c0 = 0; c0 < out.c; c0 += kMaxColumns) {
    const int64_t c1 = std::min(out.c, c0 + kMaxColumns);
    Matrix<A> tile;
    const bool direct = in_place(out, r, c0, c1, &tile);
    if (!direct) tile = packed(out, r, c1 - c0, buffer);
    multiply(tile, dense(static_cast<const A*>(g), r.pixels(), w.rows), columns(w, c0, c1));
    if (bias) add_to_rows(tile, bias + c0);
    if (!direct) store_tile(out, r, c0, c1, buffer, tile.row_stride, tile.col_stride);
  }
}

}  // namespace

template <class A>
void scatter(const Map& x, const std::vector<Scatter<A>>& branches) {
  struct Strips {
    int64_t width, segment, taps, count;
  };
  std::vector<Strips> strips;
  int64_t units = 0, work = 0;
  for (const auto& b : branches) {
    const int64_t length = b.axis == Axis::H ? x.h : x.w, across = b.axis == Axis::H ? x.w : x.h;
    const int64_t pixels = pixels_for(b.k * b.m, sizeof(A));
    const int64_t width = std::clamp<int64_t>(pixels / length, 1, across), segment = std::min(length, pixels / width);
    const int64_t taps = std::clamp<int64_t>(kTileBytes / (segment * width * b.m * static_cast<int64_t>(sizeof(A))), 1, b.k);
    strips.push_back({width, segment, taps, ceil_div(across, width)});
    units += x.n * strips.back().count;
    work += x.n * x.h * x.w * x.c * b.k * b.m;
  }
  run_units(units, work, [&](int64_t unit) {
    size_t branch = 0;
    while (unit >= x.n * strips[branch].count) unit -= x.n * strips[branch++].count;
    const auto& b = branches[branch];
    const auto& s = strips[branch];
    const int64_t begin = unit % s.count * s.width, across = b.axis == Axis::H ? x.w : x.h;
    scatter_strip(x, b, unit / s.count, begin, std::min(across, begin + s.width), s.segment, s.taps);
  });
}

template <class A>
void gather(const std::vector<Window<A>>& windows, const Matrix<const A>& w, const A* bias, const Map& out) {
  const Tiling tiles(out, pixels_for(w.rows, sizeof(A)));
  run_units(tiles.count(), out.n * out.h * out.w * w.rows * w.cols,
            [&](int64_t i) { gather_tile(windows, w, bias, out, tiles[i]); });
}

template <class A>
void correlate(const std::vector<Correlate<A>>& gradients) {
  // Each unit owns a block of channels of one gradient and walks over all pixels.
  struct Unit {
    const Correlate<A>* gradient;
    int64_t c0, c1;
  };
  std::vector<Unit> units;
  int64_t work = 0;
  for (const auto& d : gradients) {
    const int64_t block = std::clamp<int64_t>(ceil_div(d.x.c, 8), 64, 256);
    for (int64_t c = 0; c < d.x.c; c += block) units.push_back({&d, c, std::min(d.x.c, c + block)});
    work += d.x.n * d.x.h * d.x.w * d.x.c * d.window.k * d.window.m;
  }
  run_units(static_cast<int64_t>(units.size()), work, [&](int64_t i) {
    const auto& [gradient, c0, c1] = units[static_cast<size_t>(i)];
    const int64_t row = gradient->window.k * gradient->window.m;
    A* dw = gradient->dw + c0 * row;
    correlate_channels(gradient->x, c0, c1, gradient->window, NotFinite::kKeep, dw);
    if (!all_finite(dw, (c1 - c0) * row)) repair_padding(gradient->x, c0, c1, gradient->window, dw);
  });
}

template void scatter<float>(const Map&, const std::vector<Scatter<float>>&);
template void scatter<double>(const Map&, const std::vector<Scatter<double>>&);
template void gather<float>(const std::vector<Window<float>>&, const Matrix<const float>&, const float*, const Map&);
template void gather<double>(const std::vector<Window<double>>&, const Matrix<const double>&, const double*, const Map&);
template void correlate<float>(const std::vector<Correlate<float>>&);
template void correlate<double>(const std::vector<Correlate<double>>&);

}  // namespace gcn::cpu
