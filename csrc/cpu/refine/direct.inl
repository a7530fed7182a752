// The sum over pixels and taps as it stands. Lanes are neighbouring columns; see rows.h.

// packed: for each block of outputs [kh][input][kw][block]
static void pack_taps(int64_t outputs, int64_t inputs, const float* w, float* packed) {
  const ChannelBlocks blocks(outputs, kMostChannels);
  for (int64_t i = 0; i < blocks.number; i++)
    for (int d = 0; d < 3; d++)
      for (int64_t c = 0; c < inputs; c++)
        for (int e = 0; e < 3; e++)
          for (int64_t o = blocks.begin(i); o < blocks.begin(i + 1); o++) *packed++ = w[((o * inputs + c) * 3 + d) * 3 + e];
}

// Where the factors of an output at column 0 lie in a window, [kh][channel][kw].
static void find_terms(int64_t channels, const Lines<1>& lines, int32_t* offsets) {
  for (int d = 0; d < 3; d++)
    for (int64_t c = 0; c < channels; c++)
      for (int e = 0; e < 3; e++) *offsets++ = (int32_t)((d * channels + c) * lines.size() + lines.at(e - 1));
}

// One of the two convolutions, or its transpose.
struct Conv {
  int64_t inputs, outputs;
  const float *packed, *bias;
};

// ---------------------------------------------------------------- gradients of weights

// A band of results that is multiplied with the window around it, for the gradient of a weight: columns [begin, end), of which
// those in [0, columns) belong to the unit.
struct Band {
  int64_t channels, window_channels;
  int64_t begin, end, columns;
  int64_t row, height;     // of the band in the map
  bool at_left, at_right;  // whether the unit is at an edge of the map
  bool careful;
};

constexpr int kGradRows = kLanes == 16 ? 4 : 3, kGradTerms = kLanes == 16 ? 6 : 4;

GCN_INLINE float sum_of_lanes(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

// Pixels of a band of lines, and of the window around it.
struct Pixels {
  const float *band, *window;
  int64_t band_row, window_row;  // from a row to the next
  int64_t line, columns;
};

// sum[b][t] += the sum over all pixels of band[b] window[offsets[t]]
template <int B, int T>
static void grad_product(const Pixels& p, const int32_t* offsets, int64_t terms, float* sum) {
  Vec acc[B][T] = {};
  for (int64_t r = 0; r < kBand; r++) {
    const float *band = p.band + r * p.band_row, *window = p.window + r * p.window_row;
    const auto add = [&](int64_t j, const auto& load_band) __attribute__((always_inline)) {
      Vec left[B];
#pragma GCC unroll 4
      for (int b = 0; b < B; b++) left[b] = load_band(band + b * p.line + j);
#pragma GCC unroll 6
      for (int t = 0; t < T; t++) {
        const Vec right = load(window + offsets[t] + j);
#pragma GCC unroll 4
        for (int b = 0; b < B; b++) acc[b][t] += left[b] * right;
      }
    };
    int64_t j = 0;
    for (; j + kLanes <= p.columns; j += kLanes) add(j, [](const float* at) __attribute__((always_inline)) { return load(at); });
    const int rest = (int)(p.columns - j);
    if (rest > 0) add(j, [rest](const float* at) __attribute__((always_inline)) { return load_n(at, rest); });
  }
  for (int b = 0; b < B; b++)
    for (int t = 0; t < T; t++) sum[b * terms + t] += sum_of_lanes(acc[b][t]);
}

typedef void (*GradProduct)(const Pixels&, const int32_t*, int64_t, float*);
template <int B, size_t... I>
static GradProduct choose_terms(int terms, std::index_sequence<I...>) {
  static constexpr GradProduct table[] = {grad_product<B, (int)I + 1>...};
  return table[terms - 1];
}
template <size_t... I>
static GradProduct choose_grad_product(int rows, int terms, std::index_sequence<I...>) {
  static constexpr GradProduct (*table[])(int, std::make_index_sequence<kGradTerms>) = {choose_terms<(int)I + 1>...};
  return table[rows - 1](terms, std::make_index_sequence<kGradTerms>{});
}

// sum[b][t] for all channels b of a band and all terms t.
static void grad_products(Pixels pixels, int64_t channels, const int32_t* offsets, int64_t terms, float* sum) {
  const ChannelBlocks rows(channels, kGradRows), columns(terms, kGradTerms);
  const std::make_index_sequence<kGradRows> counts;
  const float* band = pixels.band;
  for (int64_t t = 0; t < columns.number; t++)
    for (int64_t b = 0; b < rows.number; b++) {
      pixels.band = band + rows.begin(b) * pixels.line;
      choose_grad_product(rows.size(b), columns.size(t), counts)(pixels, offsets + columns.begin(t), terms,
                                                                 sum + rows.begin(b) * terms + columns.begin(t));
    }
}

// The same, pair by pair of pixels that are both in the image: nothing is multiplied with a zero around it, which would be nan
// for an infinity.
static void careful_grad_products(const Pixels& pixels, const Band& of, const int32_t* offsets, float* sum) {
  const int64_t terms = 9 * of.window_channels;
  for (int64_t t = 0; t < terms; t++) {
    const int64_t d = t / (terms / 3) - 1, e = t % 3 - 1;
    const int64_t begin = e < 0 && of.at_left && of.begin <= 0 ? 1 : 0;
    const int64_t end = pixels.columns - (e > 0 && of.at_right && of.end >= of.columns ? 1 : 0);
    for (int64_t b = 0; b < of.channels; b++) {
      Vec acc = {};
      for (int64_t r = 0; r < kBand; r++) {
        const int64_t row = of.row + r;
        if (smaller(row, row + d) < 0 || larger(row, row + d) >= of.height) continue;
        const float* band = pixels.band + r * pixels.band_row + b * pixels.line;
        const float* window = pixels.window + r * pixels.window_row + offsets[t];
        for (int64_t j = begin; j < end; j += kLanes) {
          const int count = (int)smaller(kLanes, end - j);
          acc += load_n(band + j, count) * load_n(window + j, count);
        }
      }
      sum[b * terms + t] += sum_of_lanes(acc);
    }
  }
}

// ---------------------------------------------------------------- both

struct Direct {
  static constexpr int kPhases = 1;
  typedef Lines<kPhases> WindowLines;

  static int64_t packed_size(int64_t outputs, int64_t inputs) { return 9 * outputs * inputs; }
  static void pack(int64_t outputs, int64_t inputs, const float* w, float* packed) { pack_taps(outputs, inputs, w, packed); }
  static int64_t scratch(const Sizes& s, int64_t columns) {
    return padded(9 * s.c) + padded(9 * s.m) + larger(s.c, s.m) * padded(columns + 2);
  }
  static int64_t gradient_scratch(const Sizes&) { return 0; }

  Direct(const Sizes& s, const WindowLines& given, int64_t columns, float* at, float* = nullptr)
      : lines(given),
        channels(s.c),
        wide(padded(columns + 2)),
        terms((int32_t*)at),
        inner_terms(terms + padded(9 * s.c)),
        results(at + padded(9 * s.c) + padded(9 * s.m)) {
    find_terms(s.c, lines, terms);
    find_terms(s.m, lines, inner_terms);
  }

  // sink(row of the band, channel, phase, place, results) for a band of results in columns [begin, end).
  template <class Sink>
  void conv_band(const Conv& conv, const float* window, int64_t begin, int64_t end, const Sink& sink) {
    const int32_t* offsets = conv.inputs == channels ? terms : inner_terms;
    for (int64_t r = 0; r < kBand; r++) {
      whole_row(window + r * conv.inputs * lines.size() + begin, offsets, 9 * conv.inputs, conv.packed, conv.bias, conv.outputs,
                end - begin, results, wide);
      for (int64_t o = 0; o < conv.outputs; o++)
        for (int64_t j = 0; j < end - begin; j += kLanes) sink(r, o, 0, begin + j, load(results + o * wide + j));
    }
  }
  // The same for a convolution whose window takes part in the gradient of w1 (0) or w2 (1).
  template <class Sink>
  void conv_band_of(int, const Conv& conv, const float* window, int64_t begin, int64_t end, const Sink& sink) {
    conv_band(conv, window, begin, end, sink);
  }
  // Adds to the gradients of w1 (0) or w2 (1): see Sums.
  void add_gradient(int, const Band& of, const float* band, const float* window, float* sums) const {
    const int64_t begin = larger(of.begin, 0), end = smaller(of.end, of.columns), line = lines.size();
    if (begin >= end) return;
    const Pixels pixels{band + kBorder + begin, window + begin, of.channels * line, of.window_channels * line, line, end - begin};
    if (of.careful) {
      careful_grad_products(pixels, of, terms, sums);
    } else {
      grad_products(pixels, of.channels, terms, 9 * of.window_channels, sums);
    }
  }
  void finish_gradients(const Sums&, float*) const {}

  // Whether a result so far may be wrong because values are not finite.
  bool failed() const { return false; }

  const WindowLines lines;

 private:
  int64_t channels, wide;
  int32_t *terms, *inner_terms;  // of windows with the channels of x, and with those between the convolutions
  float* results;                // [channel][wide] of a row
};
