// Memory for spectra, workspaces and sums that outlives a call.
//
// Spectra and workspaces are megabytes that live for one call. Fresh from the system, each of their pages costs a fault and
// is zeroed, which took a sixth of the forward pass of a block with 2048 channels in training; so a little of what is freed is
// kept for the next call.
#pragma once

#include <cstdint>
#include <memory>

namespace gcn::cpu {

// Returns memory to the spare, not to the system.
struct GiveBack {
  int64_t bytes;
  void operator()(float* p) const;
};
using Floats = std::unique_ptr<float[], GiveBack>;

// Uninitialised, aligned to a cache line.
Floats new_floats(int64_t bytes);

// What is kept at the moment, at most kSpareMemory.
constexpr int64_t kSpareMemory = 32 << 20;
int64_t spare_memory();
void release_spare_memory();

// For fork() alone, see fork.cpp.
void lock_spare_memory();
void unlock_spare_memory();

}  // namespace gcn::cpu
