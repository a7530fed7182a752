// The doubling of each channel by itself, for one instruction set: lines of one channel, K x K taps. Included by kernels_isa.inl.

// Columns of row 2i + A of y, even and odd ones side by side, from row i of x and its neighbours, which are `pitch` floats apart.
template <int K, int A>
static void depthwise_y(const float* x, int64_t pitch, int64_t columns, const float* w, float bias, float* y) {
  constexpr int pad = K > 2;
  for (int64_t j = 0; j < columns; j += kLanes) {
    Vec even = Vec{} + bias, odd = even;
#pragma GCC unroll 3
    for (int d = -1; d <= 1; d++) {
      const int p = A + pad - 2 * d;
      if (p < 0 || p >= K) continue;
#pragma GCC unroll 3
      for (int e = -1; e <= 1; e++) {
        const int q = pad - 2 * e;
        const Vec in = load(x + d * pitch + e + j);
        if (q >= 0 && q < K) even += w[p * K + q] * in;
        if (q + 1 >= 0 && q + 1 < K) odd += w[p * K + q + 1] * in;
      }
    }
    store(y + 2 * j, shuffle<Interleave<0>>(even, odd));
    store(y + 2 * j + kLanes, shuffle<Interleave<1>>(even, odd));
  }
}

// Where tap q of column j meets dy: in the line of the odd columns or in that of the even ones before it, at j plus a shift.
template <int K>
struct Met {
  int odd, shift;
  constexpr explicit Met(int q) : odd((q - (K > 2)) & 1), shift((q - (K > 2) - odd) / 2) {}
};

// dy: [p][parity of the column], rows `pitch` floats apart, parities `line`.
template <int K>
static void depthwise_dx(const float* dy, int64_t pitch, int64_t line, int64_t columns, const float* w, float* dx) {
  for (int64_t j = 0; j < columns; j += kLanes) {
    Vec sum = {};
#pragma GCC unroll 4
    for (int p = 0; p < K; p++)
#pragma GCC unroll 4
      for (int q = 0; q < K; q++) {
        const Met<K> met(q);
        sum += w[p * K + q] * load(dy + p * pitch + met.odd * line + met.shift + j);
      }
    store(dx + j, sum);
  }
}

// sum[p][q] += x dy, lane by lane
template <int K>
static void depthwise_dw(const float* x, const float* dy, int64_t pitch, int64_t line, int64_t columns, float* sum) {
  for (int p = 0; p < K; p++, sum += K * kLanes) {
    Vec acc[K];
#pragma GCC unroll 4
    for (int q = 0; q < K; q++) acc[q] = load(sum + q * kLanes);
    for (int64_t j = 0; j < columns; j += kLanes) {
      const Vec in = load(x + j);
#pragma GCC unroll 4
      for (int q = 0; q < K; q++) {
        const Met<K> met(q);
        acc[q] += in * load(dy + p * pitch + met.odd * line + met.shift + j);
      }
    }
#pragma GCC unroll 4
    for (int q = 0; q < K; q++) store(sum + q * kLanes, acc[q]);
  }
}

struct Depthwise {
  void (*y[2])(const float*, int64_t, int64_t, const float*, float, float*);  // by the parity of the row
  void (*dx)(const float*, int64_t, int64_t, int64_t, const float*, float*);
  void (*dw)(const float*, const float*, int64_t, int64_t, int64_t, float*);
};
template <int K>
static constexpr Depthwise kDepthwise = {{depthwise_y<K, 0>, depthwise_y<K, 1>}, depthwise_dx<K>, depthwise_dw<K>};

static const Depthwise& depthwise_of(const Sizes& s) {
  return s.k == 2 ? kDepthwise<2> : s.k == 3 ? kDepthwise<3> : kDepthwise<4>;
}

// A run of elements into a tile, and out of one after a run of elements has been added.
template <class T>
static void load_run(const T* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i < count) store_n(to + i, load_n(from + i, (int)(count - i)), (int)(count - i));
}
template <class T>
GCN_INLINE Vec rounded(Vec value, T) {
  return widen(narrow(value, T{}), T{});
}
GCN_INLINE Vec rounded(Vec value, float) { return value; }
GCN_INLINE void store_all(float* to, Vec value) { store(to, value); }
template <class Half>
GCN_INLINE void store_all(Half* to, Vec value) {
  store_n(to, value, kLanes);
}
template <class T>
static void store_run(const float* from, const T* add, T* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec value = load(from + i);
    store_all(to + i, add ? rounded(value, T{}) + load(add + i) : value);
  }
  if (i == count) return;
  const int rest = (int)(count - i);
  const Vec value = load(from + i);
  store_n(to + i, add ? rounded(value, T{}) + load_n(add + i, rest) : value, rest);
}

// ---------------------------------------------------------------- rows of one channel
//
// Where the pixels of a row are neighbours, the rows of a channel follow each other: they are, in memory. A row of y is made in
// L1.

static bool is_planar(const Forward& call) {
  return call.x.stride_w == 1 && call.y.stride_w == 1 && (!call.add.data || call.add.stride_w == 1);
}

// scratch: [rows + 2][line] of x, then a row of y.
template <class T>
static void forward_planar_of(const Forward& call, const Tiling& tiling, const Unit& u, const float* packed, float* scratch) {
  const Sizes& s = call.sizes;
  const int64_t line = line_of(tiling.columns), columns = u.columns(), kept = u.kept(s);
  const int64_t before = u.column0 > 0, after = u.column1 < s.w;
  float* y = scratch + (tiling.rows + 2) * line;
  for (int64_t c = 0; c < s.c; c++) {
    for (int64_t i = u.row0 - (s.k > 3); i < u.row1 + (s.k > 2); i++) {
      float *row = scratch + (i - u.row0 + 1) * line + kBorder, *end = row + padded(columns) + kBorder;
      if (i < 0 || i >= s.h) {
        clear(row - kBorder, end);
        continue;
      }
      row[-1] = 0;
      clear(row + columns, end);
      load_run((const T*)call.x.data + offset_of(call.x, {u.n, i, u.column0 - before, 0, 0}) + c * call.x.stride_c, row - before,
               before + columns + after);
    }
    for (int64_t i = u.row0; i < u.row1; i++)
      for (int a = 0; a < 2 && 2 * i + a < s.yh; a++) {
        const Row row{u.n, 2 * i + a, 2 * u.column0, 0, 0};
        depthwise_of(s).y[a](scratch + (i - u.row0 + 1) * line + kBorder, line, columns, packed + c * s.taps(),
                             call.bias ? call.bias[c] : 0, y);
        const T* add = call.add.data ? (const T*)call.add.data + offset_of(call.add, row) + c * call.add.stride_c : nullptr;
        store_run(y, add, (T*)call.y.data + offset_of(call.y, row) + c * call.y.stride_c, kept);
      }
  }
}

// ---------------------------------------------------------------- channels innermost
//
// Where pixels are dense and follow each other, lanes are channels: nothing is turned. A tile of x is [row][column][c] with a
// border of zeros; a piece of a row of y is made in L1, then goes out as one run of elements.

constexpr int64_t kPiece = 32;  // columns of x

struct InnermostScratch {
  int64_t row, taps, x, y, w, total;
  InnermostScratch(const Sizes& s, const Tiling& t) {
    row = (t.columns + 2) * s.c, taps = larger(s.c, kLanes);
    x = 0;  // [row][column][c], and what the last vector reads beyond
    y = x + (t.rows + 2) * row + kLanes;
    w = y + 2 * kPiece * s.c + kLanes;  // [tap][c], then the bias
    total = w + (s.taps() + 1) * taps;
  }
};

template <class AnyImage>
static bool has_dense_pixels(const AnyImage& image, int64_t channels) {
  return image.stride_c == 1 && image.stride_w == channels;
}
static bool is_innermost(const Forward& call) {
  const int64_t c = call.sizes.c;
  return c > 1 && has_dense_pixels(call.x, c) && has_dense_pixels(call.y, c) && (!call.add.data || has_dense_pixels(call.add, c));
}

// Columns of row 2i + A of y, even and odd ones, [2 columns][c]: V vectors of channels that begin at `first`. x: row i.
template <int K, int A, int V>
static void innermost_y(const float* x, int64_t row, int64_t c, const int64_t* first, int64_t columns, const float* w,
                        int64_t taps, float* y) {
  constexpr int pad = K > 2;
  Vec weight[K][K][V], bias[V];
#pragma GCC unroll 2
  for (int v = 0; v < V; v++) {
    bias[v] = load(w + K * K * taps + first[v]);
#pragma GCC unroll 4
    for (int p = 0; p < K; p++)
#pragma GCC unroll 4
      for (int q = 0; q < K; q++) weight[p][q][v] = load(w + (p * K + q) * taps + first[v]);
  }
  for (int64_t j = 0; j < columns; j++, x += c, y += 2 * c) {
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      Vec even = bias[v], odd = bias[v];
#pragma GCC unroll 3
      for (int d = -1; d <= 1; d++) {
        const int p = A + pad - 2 * d;
        if (p < 0 || p >= K) continue;
#pragma GCC unroll 3
        for (int e = -1; e <= 1; e++) {
          const int q = pad - 2 * e;
          if (q + 1 < 0 || q >= K) continue;
          const Vec in = load(x + d * row + e * c + first[v]);
          if (q >= 0) even += weight[p][q][v] * in;
          if (q + 1 < K) odd += weight[p][q + 1][v] * in;
        }
      }
      if (c >= kLanes) {
        store(y + first[v], even), store(y + c + first[v], odd);
      } else {
        store_n(y + first[v], even, (int)c), store_n(y + c + first[v], odd, (int)c);
      }
    }
  }
}

typedef void (*InnermostY)(const float*, int64_t, int64_t, const int64_t*, int64_t, const float*, int64_t, float*);
template <int K>
static constexpr InnermostY kInnermost[2][2] = {{innermost_y<K, 0, 1>, innermost_y<K, 0, 2>},
                                                {innermost_y<K, 1, 1>, innermost_y<K, 1, 2>}};
static InnermostY innermost_of(const Sizes& s, int a, int vectors) {
  return (s.k == 2 ? kInnermost<2> : s.k == 3 ? kInnermost<3> : kInnermost<4>)[a][vectors - 1];
}

template <class T>
static void forward_innermost_of(const Forward& call, const Tiling& tiling, const Unit& u, const float* packed, float* scratch) {
  const Sizes& s = call.sizes;
  const InnermostScratch at(s, tiling);
  float *w = scratch + at.w, *tile = scratch + at.x, *y = scratch + at.y;
  clear(w, w + (s.taps() + 1) * at.taps);
  for (int64_t c = 0; c < s.c; c++) {
    for (int64_t tap = 0; tap < s.taps(); tap++) w[tap * at.taps + c] = packed[c * s.taps() + tap];
    if (call.bias) w[s.taps() * at.taps + c] = call.bias[c];
  }
  const int64_t before = u.column0 > 0, after = u.column1 < s.w, columns = u.columns();
  for (int64_t i = u.row0 - 1; i <= u.row1; i++) {
    float *row = tile + (i - u.row0 + 1) * at.row, *end = row + (columns + 2) * s.c;
    if (i < 0 || i >= s.h) {
      clear(row, end);
      continue;
    }
    clear(row, row + s.c), clear(end - s.c, end);
    load_run((const T*)call.x.data + offset_of(call.x, {u.n, i, u.column0 - before, 0, 0}), row + (1 - before) * s.c,
             (before + columns + after) * s.c);
  }
  const int64_t vectors = (s.c + kLanes - 1) / kLanes, kept = u.kept(s);
  for (int64_t i = u.row0; i < u.row1; i++)
    for (int a = 0; a < 2 && 2 * i + a < s.yh; a++)
      for (int64_t j = 0; j < columns; j += kPiece) {
        const float* x = tile + (i - u.row0 + 1) * at.row + (1 + j) * s.c;
        const Row row{u.n, 2 * i + a, 2 * (u.column0 + j), 0, 0};
        const int64_t piece = smaller(kPiece, columns - j), count = smaller(2 * piece, kept - 2 * j) * s.c;
        if (count <= 0) break;
        T* to = (T*)call.y.data + offset_of(call.y, row);
        const bool at_once = sizeof(T) == sizeof(float) && !call.add.data && count == 2 * piece * s.c;
        float* made = at_once ? (float*)to : y;
        for (int64_t v = 0; v < vectors; v += 2) {
          const int64_t last = larger(s.c - kLanes, 0), first[2] = {smaller(v * kLanes, last), smaller((v + 1) * kLanes, last)};
          innermost_of(s, a, v + 1 < vectors ? 2 : 1)(x, at.row, s.c, first, piece, w, at.taps, made);
        }
        if (!at_once) store_run(y, call.add.data ? (const T*)call.add.data + offset_of(call.add, row) : nullptr, to, count);
      }
}

// Whether the call is made here: of all others the caller turns rows of all channels.
static bool forward_depthwise(const Forward& call, const Tiling& tiling, const Unit& u, const float* packed, float* scratch) {
  const bool innermost = is_innermost(call);
  if (!innermost && !is_planar(call)) return false;
  const auto run = [&](auto t) {
    using T = decltype(t);
    (innermost ? forward_innermost_of<T> : forward_planar_of<T>)(call, tiling, u, packed, scratch);
  };
  if (call.y.dtype == DType::kFloat32) run(float{});
  if (call.y.dtype == DType::kBFloat16) run(BFloat16{});
  if (call.y.dtype == DType::kFloat16) run(Float16{});
  return true;
}
