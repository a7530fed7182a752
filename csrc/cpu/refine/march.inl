// Forward and backward pass of a unit, band by band.

// A window of 6 rows that moves down by 4.
struct Window {
  float* rows;
  int64_t row;  // floats

  template <int P>
  Window(float* at, int64_t channels, const Lines<P>& lines) : rows(at), row(channels * lines.size()) {
    clear(rows, rows + kWindow * row);
  }
  float* at(int64_t i) const { return rows + i * row; }
  void move() { __builtin_memcpy(rows, at(kBand), sizeof(float) * (kWindow - kBand) * row); }
};

// The rows of a map from `first` on, of which the two uppermost are there already unless the unit begins.
template <int P>
static void load_window(const ConstImage& image, const Unit& u, const Sizes& s, int64_t first, bool begins, const Span& span,
                        const Lines<P>& lines, const Window& window, float* whole, int64_t wide) {
  for (int64_t i = begins ? 0 : kWindow - kBand; i < kWindow; i++) {
    load_window_row(image, u.n, first + i, s.h, span, s.c, lines, window.at(i), whole, wide);
  }
}

// relu, as PyTorch has it: nan stays.
GCN_INLINE Vec relu(Vec a) { return a < Vec{} ? Vec{} : a; }
// Whether relu lets a gradient through.
GCN_INLINE Vec where_active(Vec a, Vec g) { return a <= Vec{} ? Vec{} : g; }

// Zeros in what is not in the image of a band [4][channels][line]: rows, and columns from `end` on.
template <int P>
static void clear_outside(int64_t first_row, int64_t height, int64_t channels, const Lines<P>& lines, int64_t end, float* band) {
  for (int64_t r = 0; r < kBand; r++) {
    float* row = band + r * channels * lines.size();
    if (first_row + r < 0 || first_row + r >= height) {
      clear(row, row + channels * lines.size());
    } else {
      for (int64_t c = 0; c < channels; c++) lines.clear_from(end, row + c * lines.size());
    }
  }
}

// image = addend + the convolution of a window, for the rows `first` .. first + 3 of a unit, part by part of its columns.
// part: floats for kPart columns, [channel][line].
constexpr int64_t kPart = 128;
template <class Method>
static void conv_into(const Image& image, const Unit& u, int64_t first, int64_t height, Method& method, const Conv& conv,
                      const Window& window, const Window& addend, float* part, float* whole) {
  const auto& lines = method.lines;
  const typename Method::WindowLines part_lines(kPart);
  for (int64_t begin = u.column0; begin < u.column1; begin += kPart) {
    const int64_t column = begin - u.column0, count = smaller(kPart, u.column1 - begin), place = column / Method::kPhases;
    method.conv_band(conv, window.rows, column, column + count,
                     [&](int64_t r, int64_t o, int q, int64_t t, Vec v) __attribute__((always_inline)) {
                       const float* plus = addend.rows + r * addend.row + o * lines.size() + q * lines.pitch + kBorder + t;
                       float* to = part + (r * conv.outputs + o) * part_lines.size() + q * part_lines.pitch + kBorder + t - place;
                       store(to, load(plus) + v);
                     });
    for (int64_t r = 0; r < kBand; r++) {
      if (first + r < 0 || first + r >= height) continue;
      store_window_row(image, {u.n, first + r, begin, count, conv.outputs}, part_lines,
                       part + r * conv.outputs * part_lines.size(), whole, kPart);
    }
  }
}

// sum[c] += the sum over the pixels of a band.
template <int P>
static void add_pixels(const float* band, const Lines<P>& lines, int64_t channels, int64_t columns, float* sum) {
  const int64_t row = channels * lines.size();
  for (int64_t c = 0; c < channels; c++) {
    Vec acc[kBand] = {};
    for (int p = 0; p < P; p++) {
      const float* line = band + c * lines.size() + p * lines.pitch + kBorder;
      const int64_t count = Lines<P>::ceil(columns - p), full = count / kLanes * kLanes;
      for (int64_t j = 0; j < full; j += kLanes) {
#pragma GCC unroll 4
        for (int r = 0; r < kBand; r++) acc[r] += load(line + r * row + j);
      }
      if (full == count) continue;
#pragma GCC unroll 4
      for (int r = 0; r < kBand; r++) acc[r] += load_n(line + r * row + full, (int)(count - full));
    }
    sum[c] += sum_of_lanes((acc[0] + acc[1]) + (acc[2] + acc[3]));
  }
}

// Sizes of what a unit keeps, in floats.
template <class Method>
struct ForwardScratch {
  int64_t x, h, part, whole, method, total;
  ForwardScratch(const Sizes& s, const Tiling& t) {
    const int64_t line = typename Method::WindowLines(t.columns).size();
    x = 0;
    h = x + kWindow * s.c * line;
    part = h + kWindow * s.m * line;
    whole = part + kBand * s.c * typename Method::WindowLines(kPart).size();
    method = whole + s.c * larger(t.columns, kPart);
    total = method + Method::scratch(s, t.columns);
  }
};
template <class Method>
static int64_t forward_scratch(const Sizes& s, const Tiling& t) {
  return ForwardScratch<Method>(s, t).total;
}

// -> whether the result is right.
template <class Method>
static bool forward(const Forward& call, const Tiling& tiling, int64_t unit, float* scratch) {
  const Sizes& s = call.sizes;
  const Unit u(s, tiling, unit);
  const ForwardScratch<Method> at(s, tiling);
  Method method(s, typename Method::WindowLines(tiling.columns), tiling.columns, scratch + at.method);
  const auto& lines = method.lines;
  const Span span(u, s.w, 2), inner(u, s.w, 1);
  const Conv conv1{s.c, s.m, call.w1, call.b1}, conv2{s.m, s.c, call.w2, call.b2};
  const int64_t begin = -inner.left, end = inner.count + inner.right;
  Window x(scratch + at.x, s.c, lines), h(scratch + at.h, s.m, lines);
  float *part = scratch + at.part, *whole = scratch + at.whole;
  for (int64_t b = u.band0 - 1; b < u.band1; b++) {
    const int64_t row = b * kBand;
    x.move(), h.move();
    load_window(call.x, u, s, row - 1, b < u.band0, span, lines, x, whole, tiling.columns);
    float* band = h.at(kWindow - kBand);
    if (row + kBand > 0) {
      method.conv_band(conv1, x.rows, begin, end,
                       [&](int64_t r, int64_t o, int q, int64_t t, Vec a) __attribute__((always_inline)) {
                         store(band + r * h.row + o * lines.size() + q * lines.pitch + kBorder + t, relu(a));
                       });
    }
    clear_outside(row, s.h, s.m, lines, end, band);
    if (b >= u.band0) conv_into(call.y, u, row - 1, s.h, method, conv2, h, x, part, whole);
  }
  return !method.failed();
}

template <class Method>
struct BackwardScratch {
  int64_t x, dy, h, da, part, whole, method, gradients, total;
  BackwardScratch(const Sizes& s, const Tiling& t) {
    const int64_t line = typename Method::WindowLines(t.columns).size();
    x = 0;
    dy = x + kWindow * s.c * line;
    h = dy + kWindow * s.c * line;
    da = h + kBand * s.m * line;
    part = da + kWindow * s.m * line;
    whole = part + kBand * s.c * typename Method::WindowLines(kPart).size();
    method = whole + s.c * larger(t.columns, kPart);
    gradients = method + Method::scratch(s, t.columns);
    total = gradients + Method::gradient_scratch(s);
  }
};
template <class Method>
static int64_t backward_scratch(const Sizes& s, const Tiling& t) {
  return BackwardScratch<Method>(s, t).total;
}

// -> whether the result is right.
template <class Method>
static bool backward(const Backward& call, const Tiling& tiling, int64_t unit, float* scratch, float* sums) {
  const Sizes& s = call.sizes;
  const Unit u(s, tiling, unit);
  const BackwardScratch<Method> at(s, tiling);
  Method method(s, typename Method::WindowLines(tiling.columns), tiling.columns, scratch + at.method, scratch + at.gradients);
  const auto& lines = method.lines;
  const Sums sum(s);
  const Span span(u, s.w, 2), inner(u, s.w, 1);
  const Conv conv1{s.c, s.m, call.w1, call.b1}, conv2t{s.c, s.m, call.w2t, nullptr}, conv1t{s.m, s.c, call.w1t, nullptr};
  const int64_t begin = -inner.left, end = inner.count + inner.right;
  Window x(scratch + at.x, s.c, lines), dy(scratch + at.dy, s.c, lines), da(scratch + at.da, s.m, lines);
  float *h = scratch + at.h, *part = scratch + at.part, *whole = scratch + at.whole;
  for (int64_t b = u.band0 - 1; b < u.band1; b++) {
    const int64_t row = b * kBand;
    x.move(), dy.move(), da.move();
    load_window(call.x, u, s, row - 1, b < u.band0, span, lines, x, whole, tiling.columns);
    load_window(call.dy, u, s, row - 1, b < u.band0, span, lines, dy, whole, tiling.columns);
    float* band = da.at(kWindow - kBand);
    for (int64_t first = begin, last; first < end && row + kBand > 0; first = last) {
      // Part by part of the columns, so that what a part's gradients are made of is still in the cache.
      last = smaller((Method::WindowLines::floor(first) + kPart / Method::kPhases) * Method::kPhases, end);
      method.conv_band_of(0, conv1, x.rows, first, last,
                          [&](int64_t r, int64_t o, int q, int64_t t, Vec a) __attribute__((always_inline)) {
                            store(h + r * da.row + o * lines.size() + q * lines.pitch + kBorder + t, a);
                          });
      method.conv_band_of(1, conv2t, dy.rows, first, last,
                          [&](int64_t r, int64_t o, int q, int64_t t, Vec dh) __attribute__((always_inline)) {
                            const int64_t at = r * da.row + o * lines.size() + q * lines.pitch + kBorder + t;
                            const Vec a = load(h + at);
                            store(band + at, where_active(a, dh));
                            store(h + at, relu(a));
                          });
      if (last == end || row + kBand > s.h) {
        clear_outside(row, s.h, s.m, lines, end, band);
        clear_outside(row, s.h, s.m, lines, end, h);
      }
      if (call.weights && b >= u.band0) {
        const Band of{s.m, s.c, first, last, span.count, row, s.h, u.column0 == 0, u.column1 == s.w, call.careful};
        method.add_gradient(0, of, band, x.rows, sums + sum.w1);
        method.add_gradient(1, of, h, dy.rows, sums + sum.w2);
      }
    }
    if (row + kBand <= 0) clear_outside(row, s.h, s.m, lines, end, band);
    if (b < u.band0) continue;
    if (call.biases) {
      add_pixels(band, lines, s.m, span.count, sums + sum.b1);
      add_pixels(dy.at(1), lines, s.c, span.count, sums + sum.b2);
    }
    if (call.dx.data) conv_into(call.dx, u, row - 1, s.h, method, conv1t, da, dy, part, whole);
  }
  if (call.weights) method.finish_gradients(sum, sums);
  return !method.failed();
}

template <class Method>
constexpr gcn::cpu::refine::Method kMethod = {
    Method::packed_size, Method::pack, forward_scratch<Method>, backward_scratch<Method>, forward<Method>, backward<Method>,
};
