// What the kernels of boundary refinement do with a problem: the tile, its places in shared memory, how many blocks; and a
// prediction of the time. Needs no GPU and no PyTorch.
#pragma once

#include <string>

#include "../gpu.h"
#include "refine_kernels.h"

namespace gcn::cuda {

struct RefineSizes {
  int64_t n, c, m, h, w;
};

// Which gradients, of a backward pass.
struct RefineWanted {
  bool x, w1, w2, b1, b2;

  bool du() const { return x || w1 || b1; }
  bool sums() const { return w1 || w2 || b1 || b2; }
};

struct RefinePlan {
  RefineSizes sizes;
  Math math;
  bool backward;
  RefineWanted wanted;
  std::string why_direct;  // empty where one launch works on tiles
  RefineTile tile;         // without pointers
  int blocks, resident, shared_bytes;
  double seconds, floor;  // predicted, of the launches on tiles; of the useful bytes, or products at the full matrix rate
  size_t workspace_bytes;
};

RefinePlan plan_refine_forward(const RefineSizes&, Math, const Gpu&);
RefinePlan plan_refine_backward(const RefineSizes&, Math, const RefineWanted&, const Gpu&);

// Parameters and their gradients are dense; null where there are none.
struct RefineTensors {
  StridedMap x, dy, out;  // out: y or dx
  const void *w1, *w2, *b1, *b2;
  void *dw1, *dw2, *db1, *db2;
};

// The workspace starts at a multiple of 256 bytes. Returns a cudaError_t as a number, 0 for success.
int run_refine(const RefinePlan&, const RefineTensors&, void* workspace, CUstream_st*);

}  // namespace gcn::cuda
