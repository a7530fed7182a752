// What a tensor map says, as plain numbers: plans and parameters hold these, and the launcher encodes them for the copy engine.
#pragma once

#include <cstdint>

namespace gcn::cuda {

struct TensorShape {
  const void* data;      // aligned to 16 bytes
  int element_bytes;     // 2 or 4
  int rank;              // 2 ... 4
  uint64_t size[4];      // in elements, the contiguous dimension first
  uint64_t stride[3];    // in bytes, of all but the first; multiples of 16
  uint32_t box[4];       // in elements, at most 256 each
  uint32_t row_swizzle;  // 0, or the box's row in bytes (32, 64, 128), whose units are permuted; see hopper_device.cuh
};

}  // namespace gcn::cuda
