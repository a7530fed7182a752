// What the kernels for sm_90a have in common: a block of three warpgroups, one producer and two consumers; rings of stages in
// shared memory between them; and units of work, of which a block does one after the other.
//
// A kernel is a Block, which has what is its own, and run_block() does the rest:
//   kRegisters           what the roles have after setmaxnreg, or kAsLaunched
//   cluster()            blocks of a cluster
//   make_barriers()      one thread: prefetches the tensor maps, and initialises all barriers
//   starts_early()       whether this warp reads nothing that the launches before write, and need not wait for them
//   copy_all()           the producer warpgroup
//   multiply_all(side)   consumer warpgroup `side`, 0 or 1
#pragma once

#include <type_traits>

#include "hopper_device.cuh"
#include "hopper_tiles.h"

namespace gcn::cuda {

constexpr int kConsumerWarps = kGroupSize / 32;  // of one warpgroup

struct RoleRegisters {
  int producer, consumer;
};
constexpr RoleRegisters kAsLaunched{0, 0};

// Where swizzled stages may start.
GCN_DEVICE unsigned char* swizzle_aligned(unsigned char* shared) {
  return shared + (kSwizzleAlignment - shared_address(shared) % kSwizzleAlignment) % kSwizzleAlignment;
}

// Zeros that wgmma reads; by all threads of the block, before run_block().
GCN_DEVICE void fill_with_zeros(unsigned char* to, int bytes) {
  for (int i = threadIdx.x; i < bytes / 16; i += kHopperThreads)
    store_shared(reinterpret_cast<uint4*>(to) + i, make_uint4(0, 0, 0, 0));
  fence_async_proxy();
}

template <class Block>
GCN_DEVICE void run_block(Block&& block) {
  constexpr RoleRegisters kRegisters = std::remove_reference_t<Block>::kRegisters;
  const bool in_cluster = block.cluster() > 1;
  if (threadIdx.x == 0) {
    block.make_barriers();
    fence_barrier_init();
  }
  if (in_cluster) {
    cluster_sync();
  } else {
    __syncthreads();  // takes a microsecond less
  }
  if (!block.starts_early()) wait_for_dependencies();
  const int warpgroup = of_first_lane(int(threadIdx.x) / kGroupSize);
  if (warpgroup == 0) {
    if constexpr (kRegisters.producer > 0) registers_release<kRegisters.producer>();
    block.copy_all();
    __syncwarp();
  } else {
    if constexpr (kRegisters.consumer > 0) registers_take<kRegisters.consumer>();
    block.multiply_all(warpgroup - 1);
  }
  if (in_cluster) cluster_sync();  // a block ends when nobody sends it anything any more
}

// This block's share of `count` units of work; `together` neighbouring blocks have the same ones. `work` gets a unit's number and
// the next one's, or its own again where there is no next one.
template <class Work>
GCN_DEVICE void for_each_unit_of(uint32_t count, uint32_t together, const Work& work) {
  const uint32_t step = gridDim.x / together;
  for (uint32_t i = blockIdx.x / together; i < count; i += step) work(i, i + step < count ? i + step : i);
}

// A ring of stages. A stage is full when all its bytes have come, and empty when every consumer warp has released it. Each thread
// that uses the ring has its own copy of this, which knows the stage whose turn it is. kShared: the blocks of a cluster copy into
// each other's stages, and a stage is empty when the warps of all of them have released it.
template <bool kShared = false>
struct Ring {
  Barrier *full, *empty;
  int stages;
  int cluster = 1;
  int slot = 0;
  uint32_t parity = 0;  // of the phase in which the slot becomes full
  int in_flight = -1;   // of a consumer: the stage that its products in flight read

  GCN_DEVICE void make(int consumer_warpgroups) const {
    for (int i = 0; i < stages; ++i) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, consumer_warpgroups * kConsumerWarps * cluster);
    }
  }
  GCN_DEVICE void next() {
    if (++slot == stages) slot = 0, parity ^= 1;
  }

  // The producer thread: when the stage is empty, `bytes` will come into it.
  GCN_DEVICE void start_filling(uint32_t bytes) const {
    barrier_wait(empty + slot, parity ^ 1);
    barrier_expect(full + slot, bytes);
  }

  // A consumer warp.
  GCN_DEVICE void wait_until_full() const { barrier_wait(full + slot, parity); }
  GCN_DEVICE void release(int of, int lane) const {
    if constexpr (kShared) {
      if (lane < cluster) barrier_arrive_at(empty + of, lane);
    } else {
      if (lane == 0) barrier_arrive(empty + of);
    }
  }
  // Its products have been issued, and stay in flight while those of the next stage are.
  GCN_DEVICE void next_in_flight() { in_flight = slot, next(); }
  // Those products are done.
  GCN_DEVICE void release_in_flight(int lane) {
    if (in_flight >= 0) release(in_flight, lane);
    in_flight = -1;
  }
};

// Two sets of windows, one window to either branch: a set is full branch by branch, and released as a whole.
struct WindowSets {
  Barrier *filled, *empty;  // [2 sets][2 branches], [2 sets]
  int slot = 0;
  uint32_t parity = 0;

  // `producers`: arrivals that make a window full.
  GCN_DEVICE void make(int producers) const {
    for (int i = 0; i < 4; ++i) barrier_init(filled + i, producers);
    for (int i = 0; i < 2; ++i) barrier_init(empty + i, 2 * kConsumerWarps);
  }
  GCN_DEVICE Barrier* full(int branch) const { return filled + 2 * slot + branch; }
  GCN_DEVICE void wait_until_full(int branch) const { barrier_wait(full(branch), parity); }
  GCN_DEVICE void wait_until_empty() const { barrier_wait(empty + slot, parity ^ 1); }
  GCN_DEVICE void release(int lane) const {
    if (lane == 0) barrier_arrive(empty + slot);
  }
  GCN_DEVICE void next() { slot ^= 1, parity ^= slot == 0; }
};

// Both consumer warpgroups take the same stages, and the second starts some of them later: while one is at the end of its unit,
// the other has the tensor cores.
struct StaggeredStart {
  Barrier* barrier;
  int ahead;      // stages
  int taken = 0;  // by this warp; of threads that never arrive, far below zero

  GCN_DEVICE void make() const { barrier_init(barrier, kConsumerWarps); }
  GCN_DEVICE void start(int side, int lane) {
    constexpr int kNever = -(1 << 30);
    taken = side == 0 && lane == 0 ? 0 : kNever;
    if (side == 1) barrier_wait(barrier, 0);
  }
  // One more stage has been taken.
  GCN_DEVICE void count() {
    if (++taken == ahead) barrier_arrive(barrier);
  }
  // There is no further one.
  GCN_DEVICE void end() const {
    if (taken >= 0 && taken < ahead) barrier_arrive(barrier);
  }
};

}  // namespace gcn::cuda
