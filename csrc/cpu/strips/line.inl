// The two inner kernels, on vectors V of channels. "Positions" run along the kernel's longer axis.
//
//   convolve   out[p] = bias + [addend[p] +] sum over taps t and crossing lines c of w[c][t] * in_c[p + t]
//   correlate  sums[t] += sum over p of in[p + t] * g[p]
//
// Both keep P positions and T taps in registers: an element that is loaded serves up to T products, so there is one load to
// T * P / (P + T - 1) of them. Where an element lies is an entry of a table for its position plus a base for its line; an
// entry or base below zero is outside the map and contributes nothing, which is the zero padding (and keeps a NaN that is
// outside a kernel's reach from showing). Longer kernels are cut into pieces of T and T - 1 taps.

template <class V>
GCN_INLINE V load_vector(intptr_t at) {
  V v;
  __builtin_memcpy(&v, reinterpret_cast<const void*>(at), sizeof v);
  return v;
}
template <class V>
GCN_INLINE void store_vector(intptr_t at, V v) {
  __builtin_memcpy(reinterpret_cast<void*>(at), &v, sizeof v);
}

struct Pieces {
  int taps;        // T, of the first pieces
  int full, rest;  // pieces of T and of T - 1 taps
};
GCN_INLINE Pieces pieces_of(int64_t k) {
  const int64_t count = (k + kMaxTaps - 1) / kMaxTaps, taps = (k + count - 1) / count, full = k - count * (taps - 1);
  return {(int)taps, (int)full, (int)(count - full)};
}

struct LineCall {
  Pieces pieces;
  int64_t count, across;                  // lines to write; lines that a line is made from
  const intptr_t* table;                  // [P + k - 1] of in
  const intptr_t* bases;                  // [count][across] of in
  const void* weights;                    // [across][k]
  const void* bias;                       // a vector, or null
  const intptr_t *out_table, *out_bases;  // [P], [count]
  const intptr_t *add_table, *add_bases;  // null if there is no addend
  // So many lines ahead, what will be read or written is fetched into L2; 0: nothing is. For images that are used in place: of
  // the jumps from pixel to pixel and from row to row that lie between their elements, processors foresee none.
  int64_t fetch_in, fetch_out;
};

GCN_INLINE void fetch(intptr_t at) { __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2); }

// Inputs: the last P of a line. Those before them were read with the positions before these.
template <int P>
GCN_INLINE void fetch_ahead(const LineCall& call, int64_t j, int64_t k) {
  const int64_t in = j + call.fetch_in, out = j + call.fetch_out;
  if (call.fetch_in && in < call.count && call.bases[in * call.across] >= 0) {
#pragma GCC unroll 16
    for (int i = 0; i < P; i++)
      if (call.table[k - 1 + i] >= 0) fetch(call.table[k - 1 + i] + call.bases[in * call.across]);
  }
  if (call.fetch_out && out < call.count) {
#pragma GCC unroll 16
    for (int i = 0; i < P; i++)
      if (call.out_table[i] >= 0) fetch(call.out_table[i] + call.out_bases[out]);
  }
}

template <int T, class V, int P>
GCN_INLINE void multiply_piece(V (&acc)[P], const intptr_t* table, intptr_t base, const V* w) {
  // A compiler that sees which entries the next piece reads again keeps them all, and spills them: as many moves as products.
  asm("" : "+r"(table));
  V weight[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; t++) weight[t] = w[t];
#pragma GCC unroll 32
  for (int q = 0; q < P + T - 1; q++) {
    const intptr_t at = table[q];
    if (at >= 0) {
      const V x = load_vector<V>(at + base);
#pragma GCC unroll 16
      for (int t = 0; t < T; t++)
        if (q - t >= 0 && q - t < P) acc[q - t] += weight[t] * x;
    }
  }
}

template <class V, int P, int T>
static void convolve(const LineCall& call) {
  const int64_t k = call.pieces.full * T + call.pieces.rest * (T - 1);
  for (int64_t j = 0; j < call.count; j++) {
    fetch_ahead<P>(call, j, k);
    V acc[P];
    const V start = call.bias ? *static_cast<const V*>(call.bias) : V{};
#pragma GCC unroll 16
    for (int i = 0; i < P; i++) acc[i] = start;
    const V* w = static_cast<const V*>(call.weights);
    for (int64_t c = 0; c < call.across; c++) {
      const intptr_t base = call.bases[j * call.across + c];
      const intptr_t* table = call.table;
      if (base < 0) {
        w += call.pieces.full * T + call.pieces.rest * (T - 1);
        continue;
      }
      for (int i = 0; i < call.pieces.full; i++, table += T, w += T) multiply_piece<T>(acc, table, base, w);
      if constexpr (T > 1)
        for (int i = 0; i < call.pieces.rest; i++, table += T - 1, w += T - 1) multiply_piece<T - 1>(acc, table, base, w);
    }
    const intptr_t out = call.out_bases[j];
    if (call.add_table) {
#pragma GCC unroll 16
      for (int i = 0; i < P; i++)
        if (call.add_table[i] >= 0) acc[i] += load_vector<V>(call.add_table[i] + call.add_bases[j]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < P; i++)
      if (call.out_table[i] >= 0) store_vector<V>(call.out_table[i] + out, acc[i]);
  }
}

struct DotCall {
  int64_t count, across;              // lines of g; bases of in are this far apart
  const intptr_t *table, *bases;      // [P + T - 1], [count * across] of in
  const intptr_t *g_table, *g_bases;  // [P], [count]
  double* sums;                       // [T][lanes]
};

// Sums of at most kDotLines * P products are made in the type of the arithmetic, what is added to them in double.
constexpr int kDotLines = 16;

template <class V>
GCN_INLINE void add_to_sums(double* sums, V v) {
  constexpr int lanes = sizeof(V) / sizeof(v[0]);
  for (int i = 0; i < lanes; i++) sums[i] += (double)v[i];
}

template <class V, int P, int T>
static void correlate(const DotCall& call) {
  V acc[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; t++) acc[t] = V{};
  for (int64_t j = 0; j < call.count; j++) {
    const intptr_t base = call.bases[j * call.across];
    if (base < 0) continue;
    V g[P];
#pragma GCC unroll 16
    for (int i = 0; i < P; i++) g[i] = load_vector<V>(call.g_table[i] + call.g_bases[j]);
#pragma GCC unroll 32
    for (int q = 0; q < P + T - 1; q++) {
      const intptr_t at = call.table[q];
      if (at >= 0) {
        const V x = load_vector<V>(at + base);
#pragma GCC unroll 16
        for (int t = 0; t < T; t++)
          if (q - t >= 0 && q - t < P) acc[t] += x * g[q - t];
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; t++) add_to_sums(call.sums + t * (int64_t)(sizeof(V) / sizeof(acc[0][0])), acc[t]);
}

// One instance for each number of taps that pieces_of gives, and each number of positions.
template <class V, int P>
GCN_INLINE void convolve_taps(const LineCall& call) {
  switch (call.pieces.taps) {
    case 1:
      return convolve<V, P, 1>(call);
    case 3:
      return convolve<V, P, 3>(call);
    case 4:
      return convolve<V, P, 4>(call);
    case 5:
      return convolve<V, P, 5>(call);
#if GCN_STRIPS_MAX_TAPS > 5
    case 7:
      return convolve<V, P, 7>(call);
    case 8:
      return convolve<V, P, 8>(call);
    case 9:
      return convolve<V, P, 9>(call);
    case 10:
      return convolve<V, P, 10>(call);
    case 11:
      return convolve<V, P, 11>(call);
#endif
  }
}
template <class V, int P>
GCN_INLINE void correlate_taps(const DotCall& call, int taps) {
  switch (taps) {
    case 1:
      return correlate<V, P, 1>(call);
    case 3:
      return correlate<V, P, 3>(call);
    case 4:
      return correlate<V, P, 4>(call);
    case 5:
      return correlate<V, P, 5>(call);
#if GCN_STRIPS_MAX_TAPS > 5
    case 6:
      return correlate<V, P, 6>(call);
    case 7:
      return correlate<V, P, 7>(call);
    case 8:
      return correlate<V, P, 8>(call);
    case 9:
      return correlate<V, P, 9>(call);
    case 10:
      return correlate<V, P, 10>(call);
    case 11:
      return correlate<V, P, 11>(call);
#endif
  }
}

GCN_INLINE int positions_of(int64_t left) { return left > 8 && kMaxPositions > 8 ? 16 : left > 4 ? 8 : 4; }

template <class V>
GCN_INLINE void convolve_any(const LineCall& call, int positions) {
  if (positions == 4) return convolve_taps<V, 4>(call);
  if (positions == 8) return convolve_taps<V, 8>(call);
  if constexpr (kMaxPositions > 8) convolve_taps<V, 16>(call);
}

// Products of a position that does not exist must not be made: in may be infinite there.
GCN_INLINE int dot_positions_of(int64_t left) { return left >= 16 && kMaxPositions > 8 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : 1; }

template <class V>
GCN_INLINE void correlate_any(const DotCall& call, int positions, int taps) {
  if (positions == 1) return correlate_taps<V, 1>(call, taps);
  if (positions == 4) return correlate_taps<V, 4>(call, taps);
  if (positions == 8) return correlate_taps<V, 8>(call, taps);
  if constexpr (kMaxPositions > 8) correlate_taps<V, 16>(call, taps);
}
