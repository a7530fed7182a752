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

// Half a vector: of 16 lanes, so that 21 channels fill 24 lanes and not 32.
constexpr int kHalf = kLanes == 16 ? 8 : 0;
typedef float HalfOfVec __attribute__((vector_size(sizeof(Vec) / 2)));

GCN_INLINE HalfOfVec load_half(const float* from) {
  HalfOfVec v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
GCN_INLINE void store_half(float* to, HalfOfVec v) { __builtin_memcpy(to, &v, sizeof v); }

// sum[b][c] += sum over tiles of band[b][tile] window[tile][c] for V vectors of channels c, and H halves of one after them
template <int B, int V, int H>
static void tile_product(const float* band, const float* window, int64_t width, int64_t count, float* sum) {
  Vec acc[B][V + 1] = {};
  HalfOfVec half[B] = {};
  for (int64_t t = 0; t < count; t++, window += width) {
    Vec in[V + 1];
    HalfOfVec half_in = {};
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) in[v] = load(window + v * kLanes);
    if (H) half_in = load_half(window + V * kLanes);
#pragma GCC unroll 16
    for (int b = 0; b < B; b++) {
      const float factor = band[b * kTiles + t];
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) acc[b][v] += factor * in[v];
      if (H) half[b] += factor * half_in;
    }
  }
#pragma GCC unroll 16
  for (int b = 0; b < B; b++) {
    float* to = sum + b * width;
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(to + v * kLanes, load(to + v * kLanes) + acc[b][v]);
    if (H) store_half(to + V * kLanes, load_half(to + V * kLanes) + half[b]);
  }
}

typedef void (*TileProduct)(const float*, const float*, int64_t, int64_t, float*);
template <int V, int H, size_t... I>
static TileProduct choose_tile_product(int rows, std::index_sequence<I...>) {
  static constexpr TileProduct table[] = {tile_product<(int)I + 1, V, H>...};
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
    for (int64_t c = 0; c < inputs; c++) {
      const int size = blocks.size(i);
      double taps[3][3][kMostChannels] = {}, half[6][3][kMostChannels];
      for (int o = 0; o < size; o++)
        for (int j = 0; j < 9; j++) taps[j / 3][j % 3][o] = w[((blocks.begin(i) + o) * inputs + c) * 9 + j];
      for (int k = 0; k < 6; k++)
        for (int e = 0; e < 3; e++)
          for (int o = 0; o < kMostChannels; o++) {
            half[k][e][o] = g[k][0] * taps[0][e][o] + g[k][1] * taps[1][e][o] + g[k][2] * taps[2][e][o];
          }
      float* to = packed + blocks.begin(i) * inputs + c * size;
      for (int k = 0; k < 36; k++, to += outputs * inputs) {
        const double* along_w = g[k % 6];
        const auto& half_k = half[k / 6];
        float sums[kMostChannels];
        for (int o = 0; o < kMostChannels; o++) {
          sums[o] = (float)(half_k[0][o] * along_w[0] + half_k[1][o] * along_w[1] + half_k[2][o] * along_w[2]);
        }
        __builtin_memcpy(to, sums, sizeof(float) * size);
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
  static int64_t scratch(const Sizes& s, int64_t) {
    const int64_t most = larger(s.c, s.m);
    return (36 + 24 + 6) * kTiles * most + 6 * kTiles * wide(most) + padded(most);
  }
  // Coefficients of two windows, and sums of two gradients [36][m][c].
  static int64_t gradient_scratch(const Sizes& s) { return 2 * 36 * kTiles * wide(s.c) + 2 * 36 * s.m * wide(s.c); }

  Winograd(const Sizes& s, const WindowLines& given, int64_t, float* at, float* gradient_at = nullptr) : lines(given), sizes(s) {
    const int64_t most = larger(s.c, s.m);
    half_in = at;
    half_out = half_in + 36 * kTiles * most;
    out = half_out + 24 * kTiles * most;
    in = out + 6 * kTiles * most;
    clear(in, in + 6 * kTiles * wide(most));
    channels = (int32_t*)(in + 6 * kTiles * wide(most));
    for (int64_t c = 0; c < most; c++) channels[c] = (int32_t)(c * kTiles);
    if (!gradient_at) return;
    for (int i = 0; i < 2; i++) {
      kept[i] = gradient_at + i * 36 * kTiles * wide(s.c);
      gradients[i] = gradient_at + 2 * 36 * kTiles * wide(s.c) + i * 36 * s.m * wide(s.c);
      clear(gradients[i], gradients[i] + 36 * s.m * wide(s.c));
    }
  }

  // sink(row of the band, channel, phase, place, results) for a band of results in columns [begin, end) and the rest of their
  // tiles.
  template <class Sink>
  void conv_band(const Conv& conv, const float* window, int64_t begin, int64_t end, const Sink& sink) {
    conv_tiles(conv, window, WindowLines::floor(begin), WindowLines::ceil(end), sink, nullptr);
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
    for (int64_t m = 0; m < sizes.m; m++) half_of_band(band + m * lines.size(), m, first, count, inside);
    for (int64_t i = 0; i < 6; i++) {
      for (int64_t m = 0; m < sizes.m; m++) coefficients_of_band(half_in + (i * sizes.m + m) * 4 * kTiles, m, count);
      for (int64_t k = 6 * i; k < 6 * i + 6; k++) {
        multiply_tiles(out + k % 6 * sizes.m * kTiles, kept[which] + k * kTiles * wide(sizes.c), count,
                       gradients[which] + k * sizes.m * wide(sizes.c));
      }
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
  // Channels as lanes, in whole vectors and at most one half.
  static int64_t wide(int64_t c) {
    constexpr int64_t grain = kHalf ? kHalf : kLanes;
    return (c + grain - 1) / grain * grain;
  }

  // Results of the tiles [first, last). A transform has a part along H and one along W. The coefficients are made, multiplied and
  // transformed back in six sets, those of one coefficient along H, so that they stay in L1; between the parts lie
  // half_in [6][input][6][tile] and half_out [6][output][4][tile]. turned: null, or where the coefficients of one set of tiles
  // are kept, [36][tile][input].
  template <class Sink>
  void conv_tiles(const Conv& conv, const float* window, int64_t first, int64_t last, const Sink& sink, float* turned) {
    const int64_t in_pitch = wide(conv.inputs) * kTiles, out_pitch = conv.outputs * kTiles;
    for (int64_t t = first; t < last; t += kTiles) {
      const int64_t count = smaller(kTiles, last - t);
      for (int64_t c = 0; c < conv.inputs; c++) half_of_window(window + c * lines.size(), conv.inputs, c, t, count);
      for (int64_t i = 0; i < 6; i++) {
        for (int64_t c = 0; c < conv.inputs; c++) {
          coefficients_of_window(half_in + (i * conv.inputs + c) * 6 * kTiles, count, in + c * kTiles, in_pitch);
        }
        for (int64_t k = 6 * i; k < 6 * i + 6; k++) {
          if (turned) turn(in + k % 6 * in_pitch, wide(conv.inputs), count, turned + k * in_pitch);
          whole_row(in + k % 6 * in_pitch, channels, conv.inputs, conv.packed + k * conv.inputs * conv.outputs, nullptr,
                    conv.outputs, count, out + k % 6 * out_pitch, kTiles);
        }
        for (int64_t o = 0; o < conv.outputs; o++) {
          half_of_results(out + o * kTiles, out_pitch, count, half_out + (i * conv.outputs + o) * 4 * kTiles);
        }
      }
      for (int64_t o = 0; o < conv.outputs; o++) {
        results(half_out + o * 4 * kTiles, out_pitch * 4, conv.bias ? conv.bias[o] : 0, count,
                [&](int64_t r, int q, int64_t j, Vec v) __attribute__((always_inline)) { sink(r, o, q, t + j, v); });
      }
    }
  }

  // window: a channel's line in row 0 of 6.
  void half_of_window(const float* window, int64_t inputs, int64_t channel, int64_t tile, int64_t count) {
    const int64_t row = inputs * lines.size(), step = inputs * 6 * kTiles;
    for (int q = 0; q < 6; q++) {
      const float* from = window + lines.at(q - 1) + tile;
      float* to = half_in + (channel * 6 + q) * kTiles;
      for (int64_t j = 0; j < count; j += kLanes) {
        Vec d[6], v[6];
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) d[i] = load(from + i * row + j);
        transform_input(d, v);
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) store(to + i * step + j, v[i]);
      }
    }
  }
  static void coefficients_of_window(const float* half, int64_t count, float* to, int64_t pitch) {
    for (int64_t j = 0; j < count; j += kLanes) {
      Vec d[6], v[6];
#pragma GCC unroll 6
      for (int q = 0; q < 6; q++) d[q] = load(half + q * kTiles + j);
      transform_input(d, v);
#pragma GCC unroll 6
      for (int q = 0; q < 6; q++) store(to + q * pitch + j, v[q]);
    }
  }

  static void half_of_results(const float* from, int64_t pitch, int64_t count, float* half) {
    for (int64_t j = 0; j < count; j += kLanes) {
      Vec m[6], y[4];
#pragma GCC unroll 6
      for (int q = 0; q < 6; q++) m[q] = load(from + q * pitch + j);
      transform_output(m, y);
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) store(half + q * kTiles + j, y[q]);
    }
  }
  template <class Sink>
  inline __attribute__((always_inline)) void results(const float* half, int64_t pitch, float bias, int64_t count,
                                                     const Sink& sink) {
    for (int q = 0; q < 4; q++) {
      for (int64_t j = 0; j < count; j += kLanes) {
        Vec m[6], y[4];
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) m[i] = load(half + i * pitch + q * kTiles + j);
        transform_output(m, y);
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) y[r] += bias;
        poison += 0 * ((y[0] + y[1]) + (y[2] + y[3]));
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) sink(r, q, j, y[r]);
      }
    }
  }

  // band: a channel's line in row 0 of 4 -> half_in [6][channel][4][tile]
  void half_of_band(const float* band, int64_t channel, int64_t tile, int64_t count, const IntVec* inside) {
    const int64_t row = sizes.m * lines.size(), step = sizes.m * 4 * kTiles;
    for (int q = 0; q < 4; q++) {
      const float* from = band + lines.at(q) + tile;
      float* to = half_in + (channel * 4 + q) * kTiles;
      for (int64_t j = 0; j < count; j += kLanes) {
        Vec y[4], v[6];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) y[i] = (Vec)((IntVec)load(from + i * row + j) & inside[j / kLanes]);
        transform_gradient(y, v);
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) store(to + i * step + j, v[i]);
      }
    }
  }
  void coefficients_of_band(const float* half, int64_t channel, int64_t count) {
    for (int64_t j = 0; j < count; j += kLanes) {
      Vec y[4], v[6];
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) y[q] = load(half + q * kTiles + j);
      transform_gradient(y, v);
#pragma GCC unroll 6
      for (int q = 0; q < 6; q++) store(out + (q * sizes.m + channel) * kTiles + j, v[q]);
    }
  }

  // One coefficient of all channels [c][tile] -> [tile][c]. What lies behind the last channel is never used.
  static void turn(const float* from, int64_t width, int64_t count, float* to) {
    const auto load_rows = [&](int64_t c, int64_t t, int rows, Vec* at) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int i = 0; i < rows; i++) at[i] = load(from + (c + i) * kTiles + t);
    };
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes)
      for (int64_t t = 0; t < count; t += kLanes) {
        Vec rows[kLanes];
        load_rows(c, t, kLanes, rows);
        transpose(rows);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) store(to + (t + i) * width + c, rows[i]);
      }
    if (c == width) return;
    for (int64_t t = 0; t < count; t += 2 * kLanes) {  // half a vector of channels of twice as many tiles
      Vec rows[kLanes];
      load_rows(c, t, kHalf, rows);
      load_rows(c, t + kLanes, kHalf, rows + kHalf);
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) {
        HalfOfVec parts[2];
        __builtin_memcpy(parts, &rows[i], sizeof parts);
        store_half(to + (t + i) * width + c, parts[0]);
        store_half(to + (t + kLanes + i) * width + c, parts[1]);
      }
    }
  }

  // sum[m][c] += sum over tiles of band[m][tile] turned[tile][c]
  void multiply_tiles(const float* band, const float* turned, int64_t count, float* sum) const {
    const int64_t width = wide(sizes.c), vectors = width / kLanes;
    const ChannelBlocks rows(sizes.m, kMostChannels);
    const std::make_index_sequence<kMostChannels> counts;
    for (int64_t v = 0; v * kLanes < width; v += kVectors)
      for (int64_t b = 0; b < rows.number; b++) {
        const bool half = vectors < v + kVectors && vectors * kLanes < width;
        const int64_t m = rows.begin(b), c = v * kLanes;
        const TileProduct product = vectors >= v + 2 ? choose_tile_product<2, 0>(rows.size(b), counts)
                                    : vectors == v   ? choose_tile_product<0, 1>(rows.size(b), counts)
                                    : half           ? choose_tile_product<1, 1>(rows.size(b), counts)
                                                     : choose_tile_product<1, 0>(rows.size(b), counts);
        product(band + m * kTiles, turned + c, width, count, sum + m * width + c);
      }
  }

  // sums [m][kh][c][kw] += the taps of a gradient in coefficients [36][m][c].
  void gradient_of_taps(const float* coefficients, float* sums) const {
    const int64_t width = wide(sizes.c), pitch = sizes.m * width;
    for (int64_t m = 0; m < sizes.m; m++)
      for (int64_t c = 0; c < sizes.c; c += kLanes) {
        const int count = (int)smaller(kLanes, sizes.c - c);
        Vec half[3][6];
        for (int q = 0; q < 6; q++) {
          Vec v[6], taps[3];
          for (int i = 0; i < 6; i++) v[i] = load_n(coefficients + (6 * i + q) * pitch + m * width + c, count);
          transform_taps(v, taps);
          for (int d = 0; d < 3; d++) half[d][q] = taps[d];
        }
        for (int d = 0; d < 3; d++) {
          Vec taps[3];
          transform_taps(half[d], taps);
          for (int i = 0; i < count; i++)
            for (int e = 0; e < 3; e++) sums[((m * 3 + d) * sizes.c + c + i) * 3 + e] += taps[e][i];
        }
      }
  }

  Sizes sizes;
  float *half_in, *half_out;  // see conv_tiles
  float *in, *out;            // coefficients of one set, [6][channel][tile]
  int32_t* channels;
  Vec poison = {};                          // a sum of results * 0
  float *kept[2] = {}, *gradients[2] = {};  // see gradient_scratch
};
