// Rows of an image to and from rows of vectors, whose lanes are channels. Whichever of channels and pixels is contiguous in
// memory decides: vector by vector, by transposes of lanes x pixels, or element by element.

template <class A>
struct Arithmetic;

template <>
struct Arithmetic<float> {
  using V = Vec;
  static constexpr int lanes = kLanes;
  static constexpr bool transposes = true;
};
template <>
struct Arithmetic<double> {
  typedef double V __attribute__((vector_size(GCN_FFT_VECTOR_BYTES)));
  static constexpr int lanes = GCN_FFT_VECTOR_BYTES / 8;
  static constexpr bool transposes = false;
};

// The rows [row0, row1) and columns [column0, column0 + columns) of one channel group of an image.
struct RowPart {
  int64_t offset;  // in elements, of the first channel at row 0, column 0
  int64_t stride_c, stride_h, stride_w;
  int64_t column0, columns;
  int lanes;  // channels that exist
};

// Pixels ahead that what lies in channels_last is fetched into L2: the lines of one group of channels are too far apart for a
// processor to foresee them, and a row is too short to wait for each of them.
constexpr int64_t kFetchAhead = 64;

template <class T>
static void load_row(const T* base, const RowPart& part, int64_t row, Vec* to) {
  const T* from = base + part.offset + row * part.stride_h + part.column0 * part.stride_w;
  const int64_t sc = part.stride_c, sw = part.stride_w;
  if (sc == 1 && part.lanes == kLanes) {
    for (int64_t i = 0; i < part.columns; i++) {
      prefetch_far(from + (i + kFetchAhead) * sw);
      to[i] = load(from + i * sw);
    }
  } else if (sc == 1) {
    for (int64_t i = 0; i < part.columns; i++) to[i] = load_n(from + i * sw, part.lanes);
  } else if (sw == 1) {
    int64_t i = 0;
    if (part.lanes == kLanes) {
      for (; i + kLanes <= part.columns; i += kLanes) {
        Vec v[kLanes];
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; r++) v[r] = load(from + r * sc + i);
        transpose(v);
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; r++) to[i + r] = v[r];
      }
    }
    for (; i < part.columns; i += kLanes) {
      const int count = (int)smaller(kLanes, part.columns - i);
      Vec v[kLanes];
      for (int r = 0; r < kLanes; r++) v[r] = r < part.lanes ? load_n(from + r * sc + i, count) : Vec{};
      transpose(v);
      for (int r = 0; r < count; r++) to[i + r] = v[r];
    }
  } else {
    for (int64_t i = 0; i < part.columns; i++) {
      Vec v = {};
      for (int r = 0; r < part.lanes; r++) v[r] = load_one(from + r * sc + i * sw);
      to[i] = v;
    }
  }
}

template <class T>
static void store_row(T* base, const RowPart& part, int64_t row, const Vec* from) {
  T* to = base + part.offset + row * part.stride_h + part.column0 * part.stride_w;
  const int64_t sc = part.stride_c, sw = part.stride_w;
  if (sc == 1) {
    for (int64_t i = 0; i < part.columns; i++) {
      prefetch_far(to + (i + kFetchAhead) * sw);
      store_n(to + i * sw, from[i], part.lanes);
    }
  } else if (sw == 1) {
    for (int64_t i = 0; i < part.columns; i += kLanes) {
      const int count = (int)smaller(kLanes, part.columns - i);
      Vec v[kLanes];
      if (count == kLanes && part.lanes == kLanes) {
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; r++) v[r] = from[i + r];
        transpose(v);
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; r++) store_n(to + r * sc + i, v[r], kLanes);
      } else {
        for (int r = 0; r < kLanes; r++) v[r] = r < count ? from[i + r] : Vec{};
        transpose(v);
        for (int r = 0; r < part.lanes; r++) store_n(to + r * sc + i, v[r], count);
      }
    }
  } else {
    for (int64_t i = 0; i < part.columns; i++)
      for (int r = 0; r < part.lanes; r++) store_one(to + r * sc + i * sw, from[i][r]);
  }
}

using DoubleVec = Arithmetic<double>::V;

static void load_row(const double* base, const RowPart& part, int64_t row, DoubleVec* to) {
  const double* from = base + part.offset + row * part.stride_h + part.column0 * part.stride_w;
  for (int64_t i = 0; i < part.columns; i++) {
    DoubleVec v = {};
    for (int r = 0; r < part.lanes; r++) v[r] = from[r * part.stride_c + i * part.stride_w];
    to[i] = v;
  }
}
static void store_row(double* base, const RowPart& part, int64_t row, const DoubleVec* from) {
  double* to = base + part.offset + row * part.stride_h + part.column0 * part.stride_w;
  for (int64_t i = 0; i < part.columns; i++)
    for (int r = 0; r < part.lanes; r++) to[r * part.stride_c + i * part.stride_w] = from[i][r];
}

// f(pointer to the elements of an image in their own type), for arithmetic in A.
template <class A, class F>
GCN_INLINE void with_elements(const Image& image, const F& f) {
  if constexpr (std::is_same_v<A, double>) {
    f(static_cast<double*>(image.data));
  } else {
    if (image.dtype == DType::kFloat32) return f(static_cast<float*>(image.data));
    if (image.dtype == DType::kBFloat16) return f(static_cast<BFloat16*>(image.data));
    f(static_cast<Float16*>(image.data));
  }
}
