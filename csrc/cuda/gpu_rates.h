// What a GPU's device says of its clock, L2 and memory, as predictions have it. The shares of peak values are those that an
// H100's measured times were fitted with; an H200 copied at 0.86 to 0.88 of its memory's peak.
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
  if (device.memory_clock_khz > 0 && device.memory_bus_bits > 0) {
    gpu.memory = h100.memory * share(device.memory_clock_khz, kH100Facts.memory_clock_khz) *
                 share(device.memory_bus_bits, kH100Facts.memory_bus_bits);
  }
}

}  // namespace gcn::cuda
