// A ring of stages in shared memory between a producer warpgroup and consumer warpgroups: which stage is next, and in which phase
// its barriers are. A stage is full when all its bytes have come, and empty when every consumer warp has released it.
#pragma once

#include "hopper_device.cuh"
#include "hopper_tiles.h"

namespace gcn::cuda {

struct Ring {
  Barrier *full, *empty;
  int stages;
  int slot = 0;
  uint32_t parity = 0;  // of the phase in which the slot becomes full

  GCN_DEVICE void make(int warps) const {
    for (int i = 0; i < stages; ++i) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, warps);
    }
  }
  GCN_DEVICE void next() {
    if (++slot == stages) slot = 0, parity ^= 1;
  }
  // Blocks of a cluster that all copy into each other's stages.
  GCN_DEVICE void release_shared(int of, int lane, int blocks) const {
    if (lane < blocks) barrier_arrive_at(empty + of, lane);
  }
  // The producer thread: the slot is empty, and `bytes` will come into it.
  GCN_DEVICE void start_filling(uint32_t bytes) const {
    barrier_wait(empty + slot, parity ^ 1);
    barrier_expect(full + slot, bytes);
  }
  GCN_DEVICE void wait_until_full() const { barrier_wait(full + slot, parity); }
  GCN_DEVICE void release(int of, int lane) const {
    if (lane == 0) barrier_arrive(empty + of);
  }
};

// Two warpgroups take the same stages, and the second starts some of them later: while one is at the end of its unit, the other
// has the tensor cores.
struct StaggeredStart {
  Barrier* barrier;
  int ahead;  // stages

  GCN_DEVICE void make(int warps) const { barrier_init(barrier, warps); }
  GCN_DEVICE void wait(int side) const {
    if (side == 1) barrier_wait(barrier, 0);
  }
  // A warpgroup has taken one more stage.
  GCN_DEVICE void count(int& taken, int side, int lane) const {
    if (++taken == ahead && side == 0 && lane == 0) barrier_arrive(barrier);
  }
  // It takes no further one.
  GCN_DEVICE void end(int taken, int side, int lane) const {
    if (taken < ahead && side == 0 && lane == 0) barrier_arrive(barrier);
  }
};

}  // namespace gcn::cuda
