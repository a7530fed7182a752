// What a GPU's device says of its clock, L2 and memory, as predictions have it. The shares of peak values are those that an
// H100's measured times were fitted with. Only of the memory's, 0.895 there, which copied at 3.0 TB/s, other GPUs have the least
// that an H200 copied at: 0.86, or 4.2 TB/s of its 4.9.
#pragma once

#include <cstdint>

#include "gpu.h"

namespace gcn::cuda {

struct DeviceFacts {
  int64_t clock_khz, memory_clock_khz, memory_bus_bits, l2_bytes;  // peak values; 0 for what the device does not tell
};

constexpr DeviceFacts kH100Facts{1980000, 2619000, 5120, 50 << 20};

// Changes what these facts tell; the rest stays as it is for an H100.
inline void apply(const DeviceFacts& device, Gpu& gpu) {
  const Gpu h100;
  const auto share = [](int64_t of, int64_t whole) { return double(of) / double(whole); };
  if (device.clock_khz > 0) gpu.clock = h100.clock * share(device.clock_khz, kH100Facts.clock_khz);
  // 32 bytes a clock and multiprocessor, as of an H100's.
  gpu.l2 = h100.l2 * gpu.clock / h100.clock * share(gpu.multiprocessors, h100.multiprocessors);
  if (device.l2_bytes > 0) gpu.l2_size = h100.l2_size * share(device.l2_bytes, kH100Facts.l2_bytes);
  const bool memory_of_h100 =
      device.memory_clock_khz == kH100Facts.memory_clock_khz && device.memory_bus_bits == kH100Facts.memory_bus_bits;
  if (device.memory_clock_khz > 0 && device.memory_bus_bits > 0 && !memory_of_h100) {
    constexpr double kShare = 0.86;
    const double peak = 2e3 * double(device.memory_clock_khz) * double(device.memory_bus_bits) / 8;  // two transfers a clock
    gpu.memory = kShare * peak;
  }
}

}  // namespace gcn::cuda
