// What the kernels of the doubling do with a problem: the tile, its places in shared memory, how many blocks; and a prediction of
// the time. Needs no GPU and no PyTorch.
#pragma once

#include <string>

#include "../gpu.h"
#include "upsample_kernels.h"

namespace gcn::cuda {

struct UpsampleSizes {
  int64_t n, c, o, h, w, yh, yw, k;
  bool by_itself;  // each channel
  bool add;        // something is added to y
};

// Which gradients, of a backward pass.
struct UpsampleWanted {
  bool x, w, b;

  bool sums() const { return w || b; }
};

struct UpsamplePlan {
  UpsampleSizes sizes;
  Math math;
  bool backward;
  UpsampleWanted wanted;
  std::string why_direct;  // empty where products are made on tiles
  UpsampleTile tile;       // both without pointers
  UpsampleDirect direct;
  int blocks, resident, shared_bytes;
  double seconds, floor;  // predicted; of the useful bytes, or products at the full rate of the units that make them
  size_t workspace_bytes, bias_at;
};

UpsamplePlan plan_upsample_forward(const UpsampleSizes&, Math, const Gpu&);
UpsamplePlan plan_upsample_backward(const UpsampleSizes&, Math, const UpsampleWanted&, const Gpu&);

// Parameters and their gradients are dense; null where there are none.
struct UpsampleTensors {
  StridedMap x, dy, add, out;  // out: y or dx
  const void *weight, *bias;
  void *dweight, *dbias;
};

// The workspace starts at a multiple of 256 bytes. Returns a cudaError_t as a number, 0 for success.
int run_upsample(const UpsamplePlan&, const UpsampleTensors&, void* workspace, CUstream_st*);

}  // namespace gcn::cuda
