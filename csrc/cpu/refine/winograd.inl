// Winograd's F(4 x 4, 3 x 3): 4 x 4 results from 36 products for each pair of channels instead of 144. Lanes are tiles.
//
// In one dimension with the points p = 0, a, -a, b, -b, infinity:
//   y[j] = sum_k p_k^j (G w)_k (B d)_k,   (G w)_k = (w[0] + p_k w[1] + p_k^2 w[2]) / N_k,   N_k = prod_{i != k} (p_k - p_i)
// where (B d)_k puts d for the powers of t in prod_{i != k} (t - p_i). With a = 3/4 and b = 3/2 all of B is exact in float, and
// the error is a third of that of the usual points 1 and 2. Source: Lavin and Gray, Fast Algorithms for Convolutional Neural
// Networks, CVPR 2016.

constexpr float kA = 0.75f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;

// Tiles that are transformed together: their coefficients stay in L2.
constexpr int64_t kTiles = 32;

GCN_INLINE void transform_input(const Vec (&d)[6], Vec (&v)[6]) {
  const Vec even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
  const Vec even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
  v[0] = d[4] - (kA2 + kB2) * d[2] + kA2 * kB2 * d[0];
  v[1] = even_a + odd_a;
  v[2] = even_a - odd_a;
  v[3] = even_b + odd_b;
  v[4] = even_b - odd_b;
  v[5] = d[5] - (kA2 + kB2) * d[3] + kA2 * kB2 * d[1];
}

GCN_INLINE void transform_output(const Vec (&m)[6], Vec (&y)[4]) {
  const Vec sum_a = m[1] + m[2], difference_a = m[1] - m[2], sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = m[0] + sum_a + sum_b;
  y[1] = kA * difference_a + kB * difference_b;
  y[2] = kA2 * sum_a + kB2 * sum_b;
  y[3] = m[5] + kA2 * kA * difference_a + kB2 * kB * difference_b;
}

// The transpose of the transform of results.
GCN_INLINE void transform_gradient(const Vec (&y)[4], Vec (&m)[6]) {
  const Vec even_a = y[0] + kA2 * y[2], odd_a = kA * y[1] + kA2 * kA * y[3];
  const Vec even_b = y[0] + kB2 * y[2], odd_b = kB * y[1] + kB2 * kB * y[3];
  m[0] = y[0];
  m[1] = even_a + odd_a;
  m[2] = even_a - odd_a;
  m[3] = even_b + odd_b;
  m[4] = even_b - odd_b;
  m[5] = y[3];
}

// The transpose of G.
GCN_INLINE void transform_taps(const Vec (&v)[6], Vec (&w)[3]) {
  constexpr float at_0 = 1 / (kA2 * kB2), at_a = 1 / (2 * kA2 * (kA2 - kB2)), at_b = 1 / (2 * kB2 * (kB2 - kA2));
  const Vec sum_a = at_a * (v[1] + v[2]), difference_a = at_a * (v[1] - v[2]);
  const Vec sum_b = at_b * (v[3] + v[4]), difference_b = at_b * (v[3] - v[4]);
  w[0] = at_0 * v[0] + sum_a + sum_b;
  w[1] = kA * difference_a + kB * difference_b;
  w[2] = kA2 * sum_a + kB2 * sum_b + v[5];
}

// sum[b][v] += sum over tiles of band[b][tile] window[tile][v] for V vectors of channels
template <int B, int V>
static void tile_product(const float* band, const float* window, int64_t width, int64_t count, float* sum) {
  Vec acc[B][V] = {};
  for (int64_t t = 0; t < count; t++, window += width) {
    Vec in[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) in[v] = load(window + v * kLanes);
#pragma GCC unroll 16
    for (int b = 0; b < B; b++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) acc[b][v] += band[b * kTiles + t] * in[v];
  }
#pragma GCC unroll 16
  for (int b = 0; b < B; b++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      float* to = sum + b * width + v * kLanes;
      store(to, load(to) + acc[b][v]);
    }
}

typedef void (*TileProduct)(const float*, const float*, int64_t, int64_t, float*);
template <int V, size_t... I>
static TileProduct choose_tile_product(int rows, std::index_sequence<I...>) {
  static constexpr TileProduct table[] = {tile_product<(int)I + 1, V>...};
  return table[rows - 1];
}

// The weights' coefficients G w G^T, [36][block of outputs][input][block]. In double: they are made once, and used everywhere.
static void pack_coefficients(int64_t outputs, int64_t inputs, const float* w, float* packed) {
  const double a = kA, b = kB, points[5] = {0, a, -a, b, -b};
  const double at_a = 2 * a * a * (a * a - b * b), at_b = 2 * b * b * (b * b - a * a);
  const double norms[5] = {a * a * b * b, at_a, at_a, at_b, at_b};
  double g[6][3] = {{}, {}, {}, {}, {}, {0, 0, 1}};
  for (int k = 0; k < 5; k++)
    for (int i = 0; i < 3; i++) g[k][i] = (i == 0 ? 1 : i == 1 ? points[k] : points[k] * points[k]) / norms[k];
  const ChannelBlocks blocks(outputs, kMostChannels);
  for (int64_t i = 0; i < blocks.number; i++)
    for (int64_t o = blocks.begin(i); o < blocks.begin(i + 1); o++)
      for (int64_t c = 0; c < inputs; c++) {
        const float* taps = w + (o * inputs + c) * 9;
        float* to = packed + blocks.begin(i) * inputs + c * blocks.size(i) + o - blocks.begin(i);
        double half[6][3];
        for (int k = 0; k < 6; k++)
          for (int e = 0; e < 3; e++) half[k][e] = g[k][0] * taps[e] + g[k][1] * taps[3 + e] + g[k][2] * taps[6 + e];
        for (int k = 0; k < 6; k++)
          for (int l = 0; l < 6; l++) {
            const double sum = half[k][0] * g[l][0] + half[k][1] * g[l][1] + half[k][2] * g[l][2];
            to[(6 * k + l) * outputs * inputs] = (float)sum;
          }
      }
}

struct Winograd {
  static constexpr int kPhases = 4;
  typedef Lines<kPhases> WindowLines;

  static int64_t packed_size(int64_t outputs, int64_t inputs) { return 36 * outputs * inputs; }
  static void pack(int64_t outputs, int64_t inputs, const float* w, float* packed) {
    pack_coefficients(outputs, inputs, w, packed);
  }
  static int64_t scratch(const Sizes& s, int64_t) { return 2 * 36 * kTiles * larger(s.c, s.m) + padded(larger(s.c, s.m)); }
  // Coefficients of two windows, a turned part of them, and sums of two gradients [36][m][c].
  static int64_t gradient_scratch(const Sizes& s) {
    return 2 * 36 * s.c * kTiles + kTiles * wide(s.c) + 2 * 36 * s.m * wide(s.c);
  }

  Winograd(const Sizes& s, const WindowLines& given, int64_t, float* at, float* gradient_at = nullptr) : lines(given), sizes(s) {
    in = at;
    out = in + 36 * kTiles * larger(s.c, s.m);
    channels = (int32_t*)(out + 36 * kTiles * larger(s.c, s.m));
    for (int64_t c = 0; c < larger(s.c, s.m); c++) channels[c] = (int32_t)(c * kTiles);
    if (!gradient_at) return;
    for (int i = 0; i < 2; i++) kept[i] = gradient_at + i * 36 * s.c * kTiles;
    turned = kept[1] + 36 * s.c * kTiles;
    for (int i = 0; i < 2; i++) {
      gradients[i] = turned + kTiles * wide(s.c) + i * 36 * s.m * wide(s.c);
      clear(gradients[i], gradients[i] + 36 * s.m * wide(s.c));
    }
  }

  // sink(row of the band, channel, phase, place, results) for a band of results in columns [begin, end) and the rest of their
  // tiles.
  template <class Sink>
  void conv_band(const Conv& conv, const float* window, int64_t begin, int64_t end, const Sink& sink) {
    conv_tiles(conv, window, WindowLines::floor(begin), WindowLines::ceil(end), sink, in);
  }
  // The same for a convolution whose window takes part in the gradient of w1 (0) or w2 (1): its coefficients are kept, so that
  // there may be kTiles at most.
  template <class Sink>
  void conv_band_of(int which, const Conv& conv, const float* window, int64_t begin, int64_t end, const Sink& sink) {
    conv_tiles(conv, window, WindowLines::floor(begin), WindowLines::ceil(end), sink, kept[which]);
  }
  // Adds to the gradient of w1 (0) or w2 (1) the products of a band's coefficients with those that were kept.
  void add_gradient(int which, const Band& of, const float* band, const float*, float*) {
    const int64_t first = WindowLines::floor(of.begin), last = WindowLines::ceil(of.end);
    const int64_t count = (last - first + kLanes - 1) / kLanes * kLanes;
    IntVec inside[kTiles / kLanes];  // all bits of the tiles in the unit; those beside it belong to others
    for (int64_t i = 0; i < count; i++) {
      inside[i / kLanes][i % kLanes] = first + i >= 0 && first + i < WindowLines::ceil(of.columns) ? -1 : 0;
    }
    for (int64_t m = 0; m < sizes.m; m++) {
      coefficients_of_band(band + m * lines.size(), first, count, inside, out + m * kTiles);
    }
    for (int64_t k = 0; k < 36; k++) {
      turn(kept[which] + k * sizes.c * kTiles, count);
      multiply_tiles(out + k * sizes.m * kTiles, count, gradients[which] + k * sizes.m * wide(sizes.c));
    }
  }
  void finish_gradients(const Sums& at, float* sums) const {
    gradient_of_taps(gradients[0], sums + at.w1);
    gradient_of_taps(gradients[1], sums + at.w2);
  }

  // Whether a result so far is not finite: then all of it may be wrong.
  bool failed() const { return !all_finite(poison); }

  const WindowLines lines;

 private:
  static int64_t wide(int64_t c) { return (c + kLanes - 1) / kLanes * kLanes; }

  // Results of the tiles [first, last). in: place for the coefficients of kTiles.
  template <class Sink>
  void conv_tiles(const Conv& conv, const float* window, int64_t first, int64_t last, const Sink& sink, float* in) {
    for (int64_t t = first; t < last; t += kTiles) {
      const int64_t count = smaller(kTiles, last - t);
      for (int64_t c = 0; c < conv.inputs; c++)
        into_coefficients(window + c * lines.size(), conv.inputs, t, count, in + c * kTiles);
      const int64_t in_pitch = conv.inputs * kTiles, out_pitch = conv.outputs * kTiles;
      for (int64_t k = 0; k < 36; k++) {
        whole_row(in + k * in_pitch, channels, conv.inputs, conv.packed + k * conv.inputs * conv.outputs, nullptr, conv.outputs,
                  count, out + k * out_pitch, kTiles);
      }
      for (int64_t o = 0; o < conv.outputs; o++) {
        out_of_coefficients(out + o * kTiles, out_pitch, conv.bias ? conv.bias[o] : 0, count,
                            [&](int64_t r, int q, int64_t j, Vec v) __attribute__((always_inline)) { sink(r, o, q, t + j, v); });
      }
    }
  }

  // window: a channel's line in row 0 of 6.
  inline __attribute__((always_inline)) void into_coefficients(const float* window, int64_t inputs, int64_t tile, int64_t count,
                                                               float* to) const {
    const int64_t row = inputs * lines.size(), step = inputs * kTiles;
    for (int64_t j = 0; j < count; j += kLanes) {
      Vec half[6][6];  // [coefficient along H][column]
#pragma GCC unroll 6
      for (int q = 0; q < 6; q++) {
        const float* from = window + lines.at(q - 1) + tile + j;
        Vec d[6], v[6];
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++, from += row) d[i] = load(from);
        transform_input(d, v);
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) half[i][q] = v[i];
      }
      float* next = to + j;
#pragma GCC unroll 6
      for (int i = 0; i < 6; i++) {
        Vec v[6];
        transform_input(half[i], v);
#pragma GCC unroll 6
        for (int q = 0; q < 6; q++, next += step) store(next, v[q]);
      }
    }
  }

  template <class Sink>
  inline __attribute__((always_inline)) void out_of_coefficients(const float* from, int64_t pitch, float bias, int64_t count,
                                                                 const Sink& sink) {
    for (int64_t j = 0; j < count; j += kLanes) {
      Vec half[6][4];  // [coefficient along H][column]
      const float* next = from + j;
#pragma GCC unroll 6
      for (int i = 0; i < 6; i++) {
        Vec m[6], y[4];
#pragma GCC unroll 6
        for (int q = 0; q < 6; q++, next += pitch) m[q] = load(next);
        transform_output(m, y);
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) half[i][q] = y[q];
      }
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) {
        Vec m[6], y[4];
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) m[i] = half[i][q];
        transform_output(m, y);
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
          y[r] += bias;
          poison += 0 * y[r];
          sink(r, q, j, y[r]);
        }
      }
    }
  }

  // band: a channel's line in row 0 of 4.
  inline __attribute__((always_inline)) void coefficients_of_band(const float* band, int64_t tile, int64_t count,
                                                                  const IntVec* inside, float* to) const {
    const int64_t row = sizes.m * lines.size();
    for (int64_t j = 0; j < count; j += kLanes) {
      Vec half[6][4];
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) {
        Vec y[4], v[6];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) y[i] = (Vec)((IntVec)load(band + i * row + lines.at(q) + tile + j) & inside[j / kLanes]);
        transform_gradient(y, v);
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) half[i][q] = v[i];
      }
#pragma GCC unroll 6
      for (int i = 0; i < 6; i++) {
        Vec v[6];
        transform_gradient(half[i], v);
#pragma GCC unroll 6
        for (int q = 0; q < 6; q++) store(to + (6 * i + q) * sizes.m * kTiles + j, v[q]);
      }
    }
  }

  // One coefficient of all channels [c][tile] -> [tile][c], zeros behind the last channel.
  void turn(const float* from, int64_t count) const {
    const int64_t width = wide(sizes.c);
    for (int64_t c0 = 0; c0 < width; c0 += kLanes)
      for (int64_t t0 = 0; t0 < count; t0 += kLanes) {
        Vec rows[kLanes];
        for (int i = 0; i < kLanes; i++) rows[i] = c0 + i < sizes.c ? load(from + (c0 + i) * kTiles + t0) : Vec{};
        transpose(rows);
        for (int i = 0; i < kLanes; i++) store(turned + (t0 + i) * width + c0, rows[i]);
      }
  }

  // sum[m][c] += sum over tiles of band[m][tile] turned[tile][c]
  void multiply_tiles(const float* band, int64_t count, float* sum) const {
    const int64_t width = wide(sizes.c);
    const ChannelBlocks rows(sizes.m, kMostChannels), columns(width / kLanes, kVectors);
    const std::make_index_sequence<kMostChannels> counts;
    for (int64_t v = 0; v < columns.number; v++)
      for (int64_t b = 0; b < rows.number; b++) {
        const int64_t m = rows.begin(b), c = columns.begin(v) * kLanes;
        const TileProduct product = columns.size(v) == kVectors ? choose_tile_product<kVectors>(rows.size(b), counts)
                                                                : choose_tile_product<1>(rows.size(b), counts);
        product(band + m * kTiles, turned + c, width, count, sum + m * width + c);
      }
  }

  // sums [m][kh][c][kw] += the taps of a gradient in coefficients [36][m][c].
  void gradient_of_taps(const float* coefficients, float* sums) const {
    const int64_t width = wide(sizes.c), pitch = sizes.m * width;
    for (int64_t m = 0; m < sizes.m; m++)
      for (int64_t c = 0; c < sizes.c; c += kLanes) {
        Vec half[3][6];
        for (int q = 0; q < 6; q++) {
          Vec v[6], taps[3];
          for (int i = 0; i < 6; i++) v[i] = load(coefficients + (6 * i + q) * pitch + m * width + c);
          transform_taps(v, taps);
          for (int d = 0; d < 3; d++) half[d][q] = taps[d];
        }
        for (int d = 0; d < 3; d++) {
          Vec taps[3];
          transform_taps(half[d], taps);
          for (int i = 0; i < smaller(kLanes, sizes.c - c); i++)
            for (int e = 0; e < 3; e++) sums[((m * 3 + d) * sizes.c + c + i) * 3 + e] += taps[e][i];
        }
      }
  }

  Sizes sizes;
  float *in, *out;  // coefficients [36][channel][tile] of a window or a band, and of a result
  int32_t* channels;
  Vec poison = {};                                             // a sum of results * 0
  float *kept[2] = {}, *gradients[2] = {}, *turned = nullptr;  // see gradient_scratch
};
