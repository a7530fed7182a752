// Windows: rows of a map in float, [row][channel][line], with zeros around the image. A line holds its columns in P phases,
// column q at place q / P of phase q % P; so lanes are neighbouring columns for P = 1, and neighbouring tiles of P columns
// otherwise. Columns are counted from the first of the unit.

// Short stretches of zeros, for which memset takes longer.
GCN_INLINE void clear_few(float* from, float* to) {
  for (; from + kLanes <= to; from += kLanes) store(from, Vec{});
  if (from < to) store_n(from, Vec{}, (int)(to - from));
}

template <int P>
struct Lines {
  int64_t pitch;  // floats of a phase
  // For columns -P .. columns + P, in whole vectors.
  explicit Lines(int64_t columns) : pitch(kBorder + ((columns + P - 1) / P + 3 + kBorder) / kBorder * kBorder) {}
  int64_t size() const { return P * pitch; }
  static int64_t floor(int64_t column) { return column >= 0 ? column / P : -((P - 1 - column) / P); }
  static int64_t ceil(int64_t column) { return floor(column + P - 1); }
  int64_t at(int64_t column) const { return (column - P * floor(column)) * pitch + kBorder + floor(column); }
  // Zeros from a column on.
  void clear_from(int64_t column, float* line) const {
    for (int p = 0; p < P; p++) clear_few(line + p * pitch + kBorder + ceil(column - p), line + (p + 1) * pitch);
  }
};

// What is around a unit: its columns in the map, and how many there are beside them, at most `wanted` on either side.
struct Span {
  int64_t first, count, left, right;
  Span(const Unit& u, int64_t width, int64_t wanted)
      : first(u.column0),
        count(u.column1 - u.column0),
        left(smaller(wanted, u.column0)),
        right(smaller(wanted, width - u.column1)) {}
};

// The phases of a line of whole columns, and back.
template <int P>
static void split(const float* whole, int64_t columns, float* line, int64_t pitch) {
  static_assert(P == 4);
  for (int64_t j = 0; j < columns; j += P * kLanes, line += kLanes) {
    const Vec a = load(whole + j), b = load(whole + j + kLanes);
    const Vec c = load(whole + j + 2 * kLanes), d = load(whole + j + 3 * kLanes);
    const Vec even0 = shuffle<Every2nd<0>>(a, b), even1 = shuffle<Every2nd<0>>(c, d);
    const Vec odd0 = shuffle<Every2nd<1>>(a, b), odd1 = shuffle<Every2nd<1>>(c, d);
    store(line, shuffle<Every2nd<0>>(even0, even1));
    store(line + pitch, shuffle<Every2nd<0>>(odd0, odd1));
    store(line + 2 * pitch, shuffle<Every2nd<1>>(even0, even1));
    store(line + 3 * pitch, shuffle<Every2nd<1>>(odd0, odd1));
  }
}
template <int P>
static void join(const float* line, int64_t pitch, int64_t columns, float* whole) {
  static_assert(P == 4);
  for (int64_t j = 0; j < columns; j += P * kLanes, line += kLanes) {
    const Vec a = load(line), b = load(line + pitch), c = load(line + 2 * pitch), d = load(line + 3 * pitch);
    const Vec even0 = shuffle<Interleave<0>>(a, c), even1 = shuffle<Interleave<1>>(a, c);
    const Vec odd0 = shuffle<Interleave<0>>(b, d), odd1 = shuffle<Interleave<1>>(b, d);
    store(whole + j, shuffle<Interleave<0>>(even0, odd0));
    store(whole + j + kLanes, shuffle<Interleave<1>>(even0, odd0));
    store(whole + j + 2 * kLanes, shuffle<Interleave<0>>(even1, odd1));
    store(whole + j + 3 * kLanes, shuffle<Interleave<1>>(even1, odd1));
  }
}

// Whether a row can be split where it lies, and joined where it goes.
template <class AnyImage>
static bool is_whole(const AnyImage& image) {
  return image.dtype == DType::kFloat32 && image.stride_w == 1;
}

// One row of a map into a window that has zeros behind the columns already. whole: floats for a row without phases, `wide` a
// channel.
template <int P>
static void load_window_row(const ConstImage& image, int64_t n, int64_t row, int64_t height, const Span& span, int64_t channels,
                            const Lines<P>& lines, float* to, float* whole, int64_t wide) {
  if (row < 0 || row >= height) return clear(to, to + channels * lines.size());
  const Row source{n, row, span.first, span.count, channels};
  const bool in_place = P > 1 && is_whole(image);
  if (P == 1) {
    load_row(image, source, to + kBorder, lines.pitch);
  } else if (!in_place) {
    load_row(image, source, whole, wide);
  }
  for (int64_t c = 0; c < channels; c++) {
    float* line = to + c * lines.size();
    const int64_t first = offset_of(image, source) + c * image.stride_c;
    if constexpr (P > 1) {
      // Whole vectors of all phases, and the rest by way of a copy.
      const float* from = in_place ? (const float*)image.data + first : whole + c * wide;
      const int64_t full = span.count / (P * kLanes) * (P * kLanes);
      split<P>(from, full, line + kBorder, lines.pitch);
      if (full < span.count) {
        float rest[P * kLanes] = {};
        for (int64_t q = full; q < span.count; q++) rest[q - full] = from[q];
        split<P>(rest, P * kLanes, line + kBorder + full / P, lines.pitch);
      }
    }
    for (int64_t q = -span.left; q < 0; q++) line[lines.at(q)] = load_element(image, first + q * image.stride_w);
    for (int64_t q = span.count; q < span.count + span.right; q++) {
      line[lines.at(q)] = load_element(image, first + q * image.stride_w);
    }
  }
}

// One row of a window into a map.
template <int P>
static void store_window_row(const Image& image, const Row& target, const Lines<P>& lines, const float* from, float* whole,
                             int64_t wide) {
  if constexpr (P == 1) {
    store_row(image, target, from + kBorder, lines.pitch);
  } else {
    const bool in_place = is_whole(image);
    for (int64_t c = 0; c < target.channels; c++) {
      const float* line = from + c * lines.size() + kBorder;
      float* to = in_place ? (float*)image.data + offset_of(image, target) + c * image.stride_c : whole + c * wide;
      const int64_t full = target.count / (P * kLanes) * (P * kLanes);
      join<P>(line, lines.pitch, full, to);
      if (full < target.count) {
        float rest[P * kLanes];
        join<P>(line + full / P, lines.pitch, P * kLanes, rest);
        for (int64_t q = full; q < target.count; q++) to[q] = rest[q - full];
      }
    }
    if (!in_place) store_row(image, target, whole, wide);
  }
}
