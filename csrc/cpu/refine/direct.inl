// The sum over pixels and taps as it stands. Lanes are neighbouring columns; see rows.h.

// packed: for each block of outputs [kh][input][kw][block]
static void pack(int64_t outputs, int64_t inputs, const float* w, float* packed) {
  const ChannelBlocks blocks(outputs, kMostChannels);
  for (int64_t i = 0; i < blocks.number; i++)
    for (int d = 0; d < 3; d++)
      for (int64_t c = 0; c < inputs; c++)
        for (int e = 0; e < 3; e++)
          for (int64_t o = blocks.begin(i); o < blocks.begin(i + 1); o++) *packed++ = w[((o * inputs + c) * 3 + d) * 3 + e];
}

// Where the factors of an output at column 0 lie in a window, [kh][channel][kw].
static void find_terms(int64_t channels, int64_t line, int32_t* offsets) {
  for (int d = 0; d < 3; d++)
    for (int64_t c = 0; c < channels; c++)
      for (int e = 0; e < 3; e++) *offsets++ = (int32_t)((d * channels + c) * line + e - 1);
}

// One of the two convolutions, or its transpose.
struct Conv {
  int64_t inputs, outputs;
  const float *packed, *bias;
  const int32_t* offsets;
};

// A band of results in columns [begin, end).
static void conv_band(const Conv& conv, const Lines<1>& lines, const float* window, int64_t begin, int64_t end, float* out) {
  for (int64_t r = 0; r < kBand; r++) {
    whole_row(window + r * conv.inputs * lines.pitch + kBorder + begin, conv.offsets, 9 * conv.inputs, conv.packed, conv.bias,
              conv.outputs, end - begin, out + r * conv.outputs * lines.pitch + kBorder + begin, lines.pitch);
  }
}

// ---------------------------------------------------------------- gradients of weights

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
static void grad_product(const Pixels& p, const int32_t* offsets, float* sum, int64_t sum_pitch) {
  Vec acc[B][T] = {};
  for (int64_t r = 0; r < kBand; r++) {
    const float *band = p.band + r * p.band_row, *window = p.window + r * p.window_row;
    for (int64_t j = 0; j < p.columns; j += kLanes) {
      const int count = (int)smaller(kLanes, p.columns - j);
      Vec left[B];
#pragma GCC unroll 4
      for (int b = 0; b < B; b++) {
        left[b] = count == kLanes ? load(band + b * p.line + j) : load_n(band + b * p.line + j, count);
      }
#pragma GCC unroll 6
      for (int t = 0; t < T; t++) {
        const Vec right = load(window + offsets[t] + j);
#pragma GCC unroll 4
        for (int b = 0; b < B; b++) acc[b][t] += left[b] * right;
      }
    }
  }
  for (int b = 0; b < B; b++)
    for (int t = 0; t < T; t++) sum[b * sum_pitch + t] += sum_of_lanes(acc[b][t]);
}

typedef void (*GradProduct)(const Pixels&, const int32_t*, float*, int64_t);
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
      choose_grad_product(rows.size(b), columns.size(t), counts)(pixels, offsets + columns.begin(t),
                                                                 sum + rows.begin(b) * terms + columns.begin(t), terms);
    }
}

// The same, pair by pair of pixels that are both in the image: nothing is multiplied with a zero around it, which would be nan
// for an infinity.
struct Inside {
  int64_t first_row, height;
  bool at_left, at_right;
};
static void careful_grad_products(const Pixels& pixels, const Inside& inside, int64_t channels, const int32_t* offsets,
                                  int64_t terms, float* sum) {
  for (int64_t t = 0; t < terms; t++) {
    const int64_t d = t / (terms / 3) - 1, e = t % 3 - 1;
    const int64_t begin = e < 0 && inside.at_left ? 1 : 0, end = pixels.columns - (e > 0 && inside.at_right ? 1 : 0);
    for (int64_t b = 0; b < channels; b++) {
      Vec acc = {};
      for (int64_t r = 0; r < kBand; r++) {
        const int64_t row = inside.first_row + r;
        if (smaller(row, row + d) < 0 || larger(row, row + d) >= inside.height) continue;
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

// sum[c] += the sum over the pixels of a band.
static void add_pixels(const float* band, const Lines<1>& lines, int64_t channels, int64_t columns, float* sum) {
  for (int64_t c = 0; c < channels; c++) {
    Vec acc = {};
    for (int64_t r = 0; r < kBand; r++) {
      const float* line = band + (r * channels + c) * lines.pitch + kBorder;
      for (int64_t j = 0; j < columns; j += kLanes) acc += load_n(line + j, (int)smaller(kLanes, columns - j));
    }
    sum[c] += sum_of_lanes(acc);
  }
}
