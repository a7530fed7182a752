// The contents of a piece of memory in 256 bytes, to tell whether they are still the same.
#pragma once

#include <array>
#include <cstdint>

#include "../fft/engine.h"

namespace gcn::cpu {

// Lanes of 64 bits over the bytes. A change of one word changes its lane for certain; several changes cancel with a probability
// of about 2^-64. 32 lanes, so that the multiplications of four wide vectors overlap.
using Fingerprint = std::array<uint64_t, 32>;

Fingerprint fingerprint(const void* data, int64_t bytes, const fft::Parallel& parallel);

}  // namespace gcn::cpu
