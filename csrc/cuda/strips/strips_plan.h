// What the kernels of depthwise strips do with a program on a map: tile, channels of a block, the place of every map in shared
// memory, the order of the operations. Needs no GPU and no PyTorch.
#pragma once

#include <string>
#include <vector>

#include "../../strips/program.h"
#include "../gpu.h"
#include "strips_kernels.h"

namespace gcn::cuda {

struct StripsSizes {
  int64_t n, c, h, w;
};

struct StripsPlan {
  gcn::strips::Program program;
  StripsSizes sizes;
  Math math;
  std::vector<StridedMap> images;  // without pointers
  std::string why_direct;          // empty where one launch carries out the program on tiles
  StripsTile tile;                 // without pointers
  bool banded;                     // its products are made by the tensor cores
  int64_t units;                   // tiles of channels of images, a block each
  int threads, shared_bytes;
  int resident;                // blocks of a multiprocessor, as far as shared memory and registers go
  double seconds, floor;       // of the tiles' launch: predicted, and what the images alone take to be read and written
  const char* bound;           // what the prediction is bound by
  StripsFinish finish;         // without pointers
  std::vector<size_t> map_at;  // without tiles: of every map between the steps in the workspace
  size_t workspace_bytes;
};

// `images`: strides of the program's images.
StripsPlan plan_strips(const gcn::strips::Program& given, const StripsSizes& sizes, Math math, const std::vector<Strides>& images,
                       const Gpu& gpu);

// Parameters are dense; gradients too, null where one is not wanted.
struct StripsTensors {
  std::vector<void*> images;
  std::vector<const void*> weights, biases;
  std::vector<void*> weight_gradients, bias_gradients;  // empty for a forward program
};

// The workspace starts at a multiple of 256 bytes. Returns a cudaError_t as a number, 0 for success.
int run_strips(const StripsPlan& plan, const StripsTensors& tensors, void* workspace, CUstream_st* stream);

}  // namespace gcn::cuda
