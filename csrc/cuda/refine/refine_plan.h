// What the kernels of boundary refinement do with a problem: the tile, its places in shared memory, how many blocks; and a
// prediction of the time. Needs no GPU and no PyTorch.
#pragma once

#include <string>

#include "../gpu.h"
#include "hopper/refine_hopper.h"
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
  std::string why_direct;    // empty where one launch works on tiles
  std::string why_portable;  // of forward; empty where the kernel for Hopper runs
  RefineTile tile;           // without pointers
  RefineMarch march;         // likewise, where that kernel runs
  int blocks, resident, shared_bytes;
  double seconds, floor;  // predicted, of the launches on tiles; of the useful bytes, or products at the full matrix rate
  size_t workspace_bytes;
};

RefinePlan plan_refine_forward(const RefineSizes&, Math, const MapLayout& x, const MapLayout& out, const Gpu&);
RefinePlan plan_refine_backward(const RefineSizes&, Math, const RefineWanted&, const Gpu&);

// Changes a forward plan to one that the kernel for Hopper runs, where it is asked for; or says why that is not possible.
void plan_refine_march(RefinePlan&, const MapLayout& x, const MapLayout& out, const Gpu&);

// Parameters and their gradients are dense; null where there are none.
struct RefineTensors {
  StridedMap x, dy, out;  // out: y or dx
  const void *w1, *w2, *b1, *b2;
  void *dw1, *dw2, *db1, *db2;
};

// The workspace starts at a multiple of 256 bytes. Returns a cudaError_t as a number, 0 for success.
int run_refine(const RefinePlan&, const RefineTensors&, void* workspace, CUstream_st*);

}  // namespace gcn::cuda
