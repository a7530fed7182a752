// Forward and backward pass of a unit, band by band.

// A window of 6 rows that moves down by 4.
struct Window {
  float* rows;
  int64_t row;  // floats

  Window(float* at, int64_t channels, const Lines<1>& lines) : rows(at), row(channels * lines.size()) {
    clear(rows, rows + kWindow * row);
  }
  float* at(int64_t i) const { return rows + i * row; }
  void move() { __builtin_memcpy(rows, at(kBand), sizeof(float) * (kWindow - kBand) * row); }
};

// The rows of a map from `first` on, of which the two uppermost are there already unless the unit begins.
static void load_window(const ConstImage& image, const Unit& u, const Sizes& s, int64_t first, bool begins, const Span& span,
                        const Lines<1>& lines, const Window& window) {
  for (int64_t i = begins ? 0 : kWindow - kBand; i < kWindow; i++) {
    load_window_row(image, u.n, first + i, s.h, span, s.c, lines, window.at(i), nullptr, 0);
  }
}

// relu, as PyTorch has it: nan stays.
GCN_INLINE Vec relu(Vec a) { return a < Vec{} ? Vec{} : a; }
// Whether relu lets a gradient through.
GCN_INLINE Vec where_active(Vec a, Vec g) { return a <= Vec{} ? Vec{} : g; }

// f(channel's line) for the rows of a band [4][channels][line] that are in the image, zeros in the others and from column `end`
// on.
template <class F>
GCN_INLINE void in_image(int64_t first_row, int64_t height, int64_t channels, const Lines<1>& lines, int64_t end, float* band,
                         const F& f) {
  for (int64_t r = 0; r < kBand; r++) {
    float* row = band + r * channels * lines.size();
    if (first_row + r < 0 || first_row + r >= height) {
      clear(row, row + channels * lines.size());
      continue;
    }
    for (int64_t c = 0; c < channels; c++) {
      f(row + c * lines.size());
      lines.clear_from(end, row + c * lines.size());
    }
  }
}

struct ForwardScratch {
  int64_t x, h, y, x_terms, h_terms, total;
  ForwardScratch(const Sizes& s, const Lines<1>& lines) {
    const int64_t line = lines.size();
    x = 0;
    h = x + kWindow * s.c * line;
    y = h + kWindow * s.m * line;
    x_terms = y + kBand * s.c * line;
    h_terms = x_terms + padded(9 * s.c);
    total = h_terms + padded(9 * s.m);
  }
};
static int64_t forward_scratch(const Sizes& s, const Tiling& t) { return ForwardScratch(s, Lines<1>(t.columns)).total; }

static void forward(const Forward& call, const Tiling& tiling, int64_t unit, float* scratch) {
  const Sizes& s = call.sizes;
  const Unit u(s, tiling, unit);
  const Lines<1> lines(tiling.columns);
  const ForwardScratch at(s, lines);
  const Span span(u, s.w, 2), inner(u, s.w, 1);
  Window x(scratch + at.x, s.c, lines), h(scratch + at.h, s.m, lines);
  int32_t *x_terms = (int32_t*)(scratch + at.x_terms), *h_terms = (int32_t*)(scratch + at.h_terms);
  find_terms(s.c, lines.size(), x_terms);
  find_terms(s.m, lines.size(), h_terms);
  const Conv conv1{s.c, s.m, call.w1, call.b1, x_terms}, conv2{s.m, s.c, call.w2, call.b2, h_terms};
  float* y = scratch + at.y;
  for (int64_t b = u.band0 - 1; b < u.band1; b++) {
    const int64_t row = b * kBand;
    x.move(), h.move();
    load_window(call.x, u, s, row - 1, b < u.band0, span, lines, x);
    float* band = h.at(kWindow - kBand);
    if (row + kBand > 0) conv_band(conv1, lines, x.rows, -inner.left, inner.count + inner.right, band);
    in_image(row, s.h, s.m, lines, inner.count + inner.right, band, [&](float* line) {
      for (int64_t i = 0; i < lines.size(); i += kLanes) store(line + i, relu(load(line + i)));
    });
    if (b < u.band0) continue;
    conv_band(conv2, lines, h.rows, 0, span.count, y);
    for (int64_t r = 0; r < kBand; r++) {
      if (row - 1 + r < 0 || row - 1 + r >= s.h) continue;
      store_sum(call.y, u.n, row - 1 + r, span, s.c, lines, y + r * x.row, x.at(r), nullptr, 0);
    }
  }
}

struct BackwardScratch {
  int64_t x, dy, h, da, dx, x_terms, h_terms, total;
  BackwardScratch(const Sizes& s, const Lines<1>& lines) {
    const int64_t line = lines.size();
    x = 0;
    dy = x + kWindow * s.c * line;
    h = dy + kWindow * s.c * line;
    da = h + kBand * s.m * line;
    dx = da + kWindow * s.m * line;
    x_terms = dx + kBand * s.c * line;
    h_terms = x_terms + padded(9 * s.c);
    total = h_terms + padded(9 * s.m);
  }
};
static int64_t backward_scratch(const Sizes& s, const Tiling& t) { return BackwardScratch(s, Lines<1>(t.columns)).total; }

static void backward(const Backward& call, const Tiling& tiling, int64_t unit, float* scratch, float* sums) {
  const Sizes& s = call.sizes;
  const Unit u(s, tiling, unit);
  const Lines<1> lines(tiling.columns);
  const BackwardScratch at(s, lines);
  const Sums sum(s);
  const Span span(u, s.w, 2), inner(u, s.w, 1);
  Window x(scratch + at.x, s.c, lines), dy(scratch + at.dy, s.c, lines), da(scratch + at.da, s.m, lines);
  int32_t *x_terms = (int32_t*)(scratch + at.x_terms), *h_terms = (int32_t*)(scratch + at.h_terms);
  find_terms(s.c, lines.size(), x_terms);
  find_terms(s.m, lines.size(), h_terms);
  const Conv conv1{s.c, s.m, call.w1, call.b1, x_terms}, conv2t{s.c, s.m, call.w2t, nullptr, x_terms};
  const Conv conv1t{s.m, s.c, call.w1t, nullptr, h_terms};
  float *h = scratch + at.h, *dx = scratch + at.dx;
  clear(h, h + kBand * da.row);
  for (int64_t b = u.band0 - 1; b < u.band1; b++) {
    const int64_t row = b * kBand, begin = -inner.left, end = inner.count + inner.right;
    x.move(), dy.move(), da.move();
    load_window(call.x, u, s, row - 1, b < u.band0, span, lines, x);
    load_window(call.dy, u, s, row - 1, b < u.band0, span, lines, dy);
    float* band = da.at(kWindow - kBand);
    if (row + kBand > 0) {
      conv_band(conv1, lines, x.rows, begin, end, h);
      conv_band(conv2t, lines, dy.rows, begin, end, band);
    }
    in_image(row, s.h, s.m, lines, end, band, [&](float* line) {
      const float* a = h + (line - band);
      for (int64_t i = 0; i < lines.size(); i += kLanes) store(line + i, where_active(load(a + i), load(line + i)));
    });
    if (b < u.band0) continue;
    in_image(row, s.h, s.m, lines, end, h, [&](float* line) {
      for (int64_t i = 0; i < lines.size(); i += kLanes) store(line + i, relu(load(line + i)));
    });
    if (call.weights) {
      const Pixels with_x{band + kBorder, x.rows + kBorder, da.row, x.row, lines.size(), span.count};
      const Pixels with_dy{h + kBorder, dy.rows + kBorder, da.row, dy.row, lines.size(), span.count};
      if (call.careful) {
        const Inside inside{row, s.h, u.column0 == 0, u.column1 == s.w};
        careful_grad_products(with_x, inside, s.m, x_terms, 9 * s.c, sums + sum.w1);
        careful_grad_products(with_dy, inside, s.m, x_terms, 9 * s.c, sums + sum.w2);
      } else {
        grad_products(with_x, s.m, x_terms, 9 * s.c, sums + sum.w1);
        grad_products(with_dy, s.m, x_terms, 9 * s.c, sums + sum.w2);
      }
    }
    if (call.biases) {
      add_pixels(band, lines, s.m, span.count, sums + sum.b1);
      add_pixels(dy.at(1), lines, s.c, span.count, sums + sum.b2);
    }
    if (!call.dx.data) continue;
    conv_band(conv1t, lines, da.rows, 0, span.count, dx);
    for (int64_t r = 0; r < kBand; r++) {
      if (row - 1 + r < 0 || row - 1 + r >= s.h) continue;
      store_sum(call.dx, u.n, row - 1 + r, span, s.c, lines, dx + r * dy.row, dy.at(r), nullptr, 0);
    }
  }
}
