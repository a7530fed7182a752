// The 16-bit types and tf32, bit by bit.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace simt {

template <class To, class From>
To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

inline float widen(Half x) { return static_cast<float>(bit_cast<_Float16>(x.bits)); }
inline float widen(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// To nearest, ties to even.
inline Half to_half(float x) { return {bit_cast<uint16_t>(static_cast<_Float16>(x))}; }
inline BFloat16 to_bfloat16(float x) {
  if (std::isnan(x)) return {0x7FFF};
  const uint32_t bits = bit_cast<uint32_t>(x);
  return {static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

// tf32 keeps 10 bits behind the point. To nearest, ties away from zero.
inline uint32_t round_to_tf32(uint32_t bits) {
  const uint32_t exponent = 0x7F800000u;
  if ((bits & exponent) == exponent) return (bits & 0x007FFFFFu) ? 0x7FFFFFFFu : bits;  // nan, infinity
  return (bits + 0x1000u) & ~0x1FFFu;
}

inline float cut_to_tf32(uint32_t bits) { return bit_cast<float>(bits & ~0x1FFFu); }

// Towards zero, as tensor cores end their sums.
inline float cut_to_float(double exact) {
  const float nearest = static_cast<float>(exact);
  if (!std::isfinite(nearest) || std::fabs(static_cast<double>(nearest)) <= std::fabs(exact)) return nearest;
  return bit_cast<float>(bit_cast<uint32_t>(nearest) - 1);
}

}  // namespace simt
