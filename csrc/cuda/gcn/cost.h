// How long a launch should take: what keeps the busiest multiprocessor busiest (tensor cores, shared memory, the way from L2,
// issuing instructions), or device memory, and the latencies that nothing hides. Predictions, made with the ceilings of `Gpu`,
// and with what an H100 took for instructions, starts and latencies (benchmarks/results/h100).
#pragma once

#include <vector>

#include "plan.h"

namespace gcn::cuda {

// What a block of a kernel with a main loop asks of its multiprocessor.
struct BlockCost {
  double tensor, shared;  // clocks of the tensor cores, and of shared memory in the main loop
  double l2;              // bytes that the main loop loads
  double epilogue;        // clocks of shared memory after the main loop
  double issue = 0;       // clocks in which a full multiprocessor issues its instructions, where they count
  double alone = 0;       // clocks that it takes whatever runs beside it, because its instructions wait for each other
};

// Bytes of a whole launch.
struct Traffic {
  double memory = 0, l2 = 0;

  // What one launch leaves to another is found in L2, if it leaves room there for what else passes through: `between` are the
  // bytes of the launches in between.
  void leave(double bytes, const Gpu& gpu, double between = 0) { (bytes + between < gpu.l2_size / 2 ? l2 : memory) += bytes; }
};

// Blocks of `blocks` on the busiest multiprocessor.
double busiest(int64_t blocks, const Gpu&);

// How many blocks with this much shared memory a multiprocessor takes, `most` by their registers.
int blocks_per_multiprocessor(int shared_bytes, int most, const Gpu&);

// Blocks of one kind, of which a launch may have several.
struct BlockKind {
  int64_t blocks;
  BlockCost cost;
};

// From the first block's start to the last one's end.
double clocks_of(const std::vector<BlockKind>&, int per_multiprocessor, const Gpu&);

// What a launch says of itself: name, blocks, threads, shared memory, blocks on a multiprocessor, operations.
struct LaunchFacts {
  const char* kernel;
  int64_t blocks;
  int threads, shared_bytes, blocks_per_multiprocessor;
  double flops;
};

// The blocks of one kernel, or of two that share a launch.
struct LaunchWork {
  std::vector<BlockKind> kinds;
  int shared_bytes = 0;
  double flops = 0;
  Traffic traffic;

  void add(const LaunchWork&);
};

// Adds a launch to the plan: one with a main loop that takes `clocks`, or with blocks whose main loops take what they cost, or
// one that only moves bytes. `most`: blocks that a multiprocessor takes by their registers.
void note(Plan&, const LaunchFacts&, double clocks, const Traffic&, const Gpu&);
void note(Plan&, const char* kernel, int threads, int most, const LaunchWork&, const Gpu&);
void note_copy(Plan&, const char* kernel, const Traffic&, const Gpu&);

}  // namespace gcn::cuda
