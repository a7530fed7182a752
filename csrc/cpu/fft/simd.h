// One vector type, Vec, of kLanes floats, for every instruction set.
//
// The including file sets GCN_FFT_VECTOR_BYTES (16, 32 or 64) and GCN_FFT_ISA (a namespace), and has selected
// the instruction set with a target pragma. Everything here is static or inside that namespace, so that the
// three builds of this source never share a function. Arithmetic is the compiler's own on vector types (a +
// b, a * b, v * scalar); this file adds what has no operator:
//
//   load, load_n, store, store_n   unaligned, of float, bfloat16 or float16 elements, the first n lanes only
//   transpose                      kLanes x kLanes, in registers
//   all_finite, prefetch
//
// bfloat16 and float16 are converted by integer operations that vectorise on any target; rounding is to
// nearest even.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if GCN_FFT_VECTOR_BYTES > 16
#include <immintrin.h>
#endif

#define GCN_INLINE static inline __attribute__((always_inline))

namespace gcn::cpu {
namespace fft {
namespace GCN_FFT_ISA {

constexpr int kLanes = GCN_FFT_VECTOR_BYTES / 4;

typedef float Vec __attribute__((vector_size(GCN_FFT_VECTOR_BYTES)));
typedef int32_t IntVec __attribute__((vector_size(GCN_FFT_VECTOR_BYTES)));
typedef uint32_t BitVec __attribute__((vector_size(GCN_FFT_VECTOR_BYTES)));
typedef uint16_t HalfVec __attribute__((vector_size(GCN_FFT_VECTOR_BYTES / 2)));

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class To, class From>
GCN_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

GCN_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
GCN_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// ---------------------------------------------------------------- 16-bit conversions

GCN_INLINE Vec widen(HalfVec half, BFloat16) { return (Vec)(__builtin_convertvector(half, BitVec) << 16); }

GCN_INLINE Vec widen(HalfVec half, Float16) {
  const BitVec bits = __builtin_convertvector(half, BitVec);
  const BitVec sign = (bits & 0x8000u) << 16;
  const BitVec magnitude = (bits & 0x7fffu) << 13;
  const BitVec exponent = magnitude & 0x0f800000u;
  const BitVec rebias = magnitude + (112u << 23);
  // A subnormal becomes 2^-14 * (1 + fraction) - 2^-14, which is exact.
  const BitVec smallest = (BitVec{} + (113u << 23));
  const BitVec subnormal = (BitVec)((Vec)(magnitude + (113u << 23)) - (Vec)smallest);
  BitVec value = exponent == 0x0f800000u ? rebias + (112u << 23) : rebias;
  value = exponent == 0u ? subnormal : value;
  return (Vec)(value | sign);
}

GCN_INLINE HalfVec narrow(Vec value, BFloat16) {
  const BitVec bits = (BitVec)value;
  const BitVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const BitVec quiet_nan = (bits >> 16) | 0x40u;
  return __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded, HalfVec);
}

GCN_INLINE HalfVec narrow(Vec value, Float16) {
  const BitVec bits = (BitVec)value;
  const BitVec magnitude = bits & 0x7fffffffu;
  const BitVec sign = (bits >> 16) & 0x8000u;
  const BitVec normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5, whose last bit is worth 2^-24, leaves the rounded subnormal in the low bits.
  const BitVec half = BitVec{} + 0x3f000000u;
  const BitVec subnormal = (BitVec)((Vec)magnitude + (Vec)half) - half;
  BitVec result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x47800000u ? BitVec{} + 0x7c00u : result;
  result = magnitude > 0x7f800000u ? BitVec{} + 0x7e00u : result;
  return __builtin_convertvector(result | sign, HalfVec);
}

// ---------------------------------------------------------------- loads and stores

GCN_INLINE Vec load(const float* from) {
  Vec v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

GCN_INLINE void store(float* to, Vec v) { __builtin_memcpy(to, &v, sizeof v); }

#if GCN_FFT_VECTOR_BYTES == 64
GCN_INLINE Vec load_n(const float* from, int n) { return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from); }
GCN_INLINE void store_n(float* to, Vec v, int n) { _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)v); }
#elif GCN_FFT_VECTOR_BYTES == 32
GCN_INLINE __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
GCN_INLINE Vec load_n(const float* from, int n) { return (Vec)_mm256_maskload_ps(from, first_lanes(n)); }
GCN_INLINE void store_n(float* to, Vec v, int n) { _mm256_maskstore_ps(to, first_lanes(n), (__m256)v); }
#else
GCN_INLINE Vec load_n(const float* from, int n) {
  if (n == kLanes) return load(from);
  Vec v = {};
  for (int i = 0; i < n; i++) v[i] = from[i];
  return v;
}
GCN_INLINE void store_n(float* to, Vec v, int n) {
  if (n == kLanes) return store(to, v);
  for (int i = 0; i < n; i++) to[i] = v[i];
}
#endif

template <class Half>
GCN_INLINE Vec load(const Half* from) {
  HalfVec half;
  __builtin_memcpy(&half, from, sizeof half);
  return widen(half, Half{});
}

template <class Half>
GCN_INLINE Vec load_n(const Half* from, int n) {
  if (n == kLanes) return load(from);
  HalfVec half = {};
  for (int i = 0; i < n; i++) half[i] = from[i].bits;
  return widen(half, Half{});
}

template <class Half>
GCN_INLINE void store_n(Half* to, Vec v, int n) {
  const HalfVec half = narrow(v, Half{});
  if (n == kLanes) {
    __builtin_memcpy(to, &half, sizeof half);
    return;
  }
  for (int i = 0; i < n; i++) to[i].bits = half[i];
}

GCN_INLINE float load_one(const float* from) { return *from; }
template <class Half>
GCN_INLINE float load_one(const Half* from) {
  return widen(HalfVec{} + from->bits, Half{})[0];
}

GCN_INLINE void store_one(float* to, float value) { *to = value; }
template <class Half>
GCN_INLINE void store_one(Half* to, float value) {
  to->bits = narrow(Vec{} + value, Half{})[0];
}

GCN_INLINE void prefetch_near(const void* p) { __builtin_prefetch(p, 0, 3); }
GCN_INLINE void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

// sum: a running sum of v * 0, which turns NaN in every lane that has ever seen NaN or an infinity.
GCN_INLINE bool all_finite(Vec sum) {
  const IntVec bad = sum != Vec{};
  int32_t any = 0;
  for (int i = 0; i < kLanes; i++) any |= bad[i];
  return any == 0;
}

// ---------------------------------------------------------------- transpose

// Lane of the result -> lane of the concatenation (a, b). Pair<Width, High> interleaves elements of Width
// floats of the low or high half of each 16-byte part; Blocks<High> interleaves whole 16-byte parts of the
// low or high half.
template <int Width, int High>
struct Pair {
  static constexpr int at(int i) {
    return i / 4 * 4 + i % Width + (i % 4 / (2 * Width)) * Width + 2 * High + (i / Width % 2) * kLanes;
  }
};
template <int High>
struct Blocks {
  static constexpr int at(int i) { return (i / 8 + High * kLanes / 8) * 4 + i % 4 + (i / 4 % 2) * kLanes; }
};

template <class Order, size_t... I>
GCN_INLINE Vec shuffle(Vec a, Vec b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, Order::at((int)I)...);
}
template <class Order>
GCN_INLINE Vec shuffle(Vec a, Vec b) {
  return shuffle<Order>(a, b, std::make_index_sequence<kLanes>{});
}

// row[i][j] <-> row[j][i]
GCN_INLINE void transpose(Vec (&row)[kLanes]) {
  Vec part[4][kLanes / 4];  // part[e][g]: 16-byte part b holds element 4b + e of rows 4g .. 4g + 3
#pragma GCC unroll 4
  for (int g = 0; g < kLanes / 4; g++) {
    const Vec a = shuffle<Pair<1, 0>>(row[4 * g], row[4 * g + 1]), b = shuffle<Pair<1, 1>>(row[4 * g], row[4 * g + 1]);
    const Vec c = shuffle<Pair<1, 0>>(row[4 * g + 2], row[4 * g + 3]);
    const Vec d = shuffle<Pair<1, 1>>(row[4 * g + 2], row[4 * g + 3]);
    part[0][g] = shuffle<Pair<2, 0>>(a, c);
    part[1][g] = shuffle<Pair<2, 1>>(a, c);
    part[2][g] = shuffle<Pair<2, 0>>(b, d);
    part[3][g] = shuffle<Pair<2, 1>>(b, d);
  }
#pragma GCC unroll 4
  for (int e = 0; e < 4; e++) {
#if GCN_FFT_VECTOR_BYTES == 64
    const Vec a = shuffle<Blocks<0>>(part[e][0], part[e][2]), b = shuffle<Blocks<1>>(part[e][0], part[e][2]);
    const Vec c = shuffle<Blocks<0>>(part[e][1], part[e][3]), d = shuffle<Blocks<1>>(part[e][1], part[e][3]);
    row[e] = shuffle<Blocks<0>>(a, c);
    row[4 + e] = shuffle<Blocks<1>>(a, c);
    row[8 + e] = shuffle<Blocks<0>>(b, d);
    row[12 + e] = shuffle<Blocks<1>>(b, d);
#elif GCN_FFT_VECTOR_BYTES == 32
    row[e] = shuffle<Blocks<0>>(part[e][0], part[e][1]);
    row[4 + e] = shuffle<Blocks<1>>(part[e][0], part[e][1]);
#else
    row[e] = part[e][0];
#endif
  }
}

}  // namespace GCN_FFT_ISA
}  // namespace fft
}  // namespace gcn::cpu
