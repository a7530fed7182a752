// First stage of the block for Hopper, from NCHW in 16 bits: the portable kernel's product, weights and results
// (first_stage.cuh), by wgmma on what the copy engine brings.
//
//   T[p, (t, m)] = sum_c x[p, c] w[m, c, t],   u[p, m] = b[m] + sum_t T[p + (t - radius) positions of its line, (t, m)]
//
// Who owns what: blocks are persistent, one to an SM. A unit of work is a tile of 128 pixels, one branch, two groups of middle
// channels (168 columns each for k = 15) and a split of the channels. Warpgroup 0 copies (one warp); warpgroups 1 and 2 have
// one group of middle channels each, all 128 pixels of it: two wgmma of 64 x 168 in 168 registers a thread. So neither needs the
// other for its sums over taps, and they may be at different places.
//
// Shared memory, from an address that is a multiple of 1024:
//   ring of stages, each a k-block of 32 channels: x [run][32 channels][pixels of a run], 8192 bytes, then w [168 columns][64 B]
//   of either group, 29696 bytes in all;
//   for each multiplying warpgroup 32 columns of T, transposed, [32][132] floats, and the sums u [group_mid][extent];
//   barriers: full and empty of each stage, and one for the lag.
// A run is what a tile has of a row of the map: along columns 8 pixels, lines that alternate at one position; along rows 8, 16,
// 32 or 64, a divisor of the row. x is copied by boxes of [runs below each other][32 channels][run], whose rows of 16 to 128
// bytes are permuted unless they are one unit, and is an MN-major operand: 16 bytes times the run from eight channels to the next
// eight, 64 from one run to the next. So a step of 16 channels is 32 bytes times the run, and either half of the pixels is 4096
// bytes. The packed weights are a K-major operand with rows of 64 bytes, whose step is 32 bytes.
//
// Pipeline: a stage is full when all its bytes have come, and empty when every warp that multiplies has read it, in both blocks
// of a cluster. One product group stays in flight while the next is issued. At the start warpgroup 2 lags half the ring behind
// warpgroup 1 and keeps that distance: while one adds up its taps, the other has the tensor cores, and the stages for the next
// unit arrive meanwhile.
//
// Clusters: two blocks with neighbouring tiles need the same weights at the same time. Each loads one group's and sends them to
// both, so that a stage costs 8192 + 10752 bytes of L2 traffic instead of 29696. Along columns, where a row of the boxes is half
// a sector of 32 bytes, L2 may have to move x twice, and the copy engine handles 512 such rows for a k-block: if it takes more
// than one clock for each, it is slower than the tensor cores. The plan knows of neither; nobody has measured them.
//
// Cost of a k-block, 16-bit: 128 x 336 x 32 products are 672 clocks at 2048 a clock; wgmma reads 4 x (64 + 168) x 32 x 2 bytes of
// shared memory for each group, 59 KB or 464 clocks. The epilogue writes and reads T once, 2 x 172 KB in all or 2700 clocks of
// shared memory: it runs beside the other group's products as long as those of a unit take longer, from C = 256 on.
#pragma once

#include "../first_stage.cuh"
#include "hopper_device.cuh"
#include "hopper_kernels.h"
#include "hopper_ring.cuh"
#include "hopper_tiles.h"

namespace gcn::cuda {

struct HopperFirstStageNchwArguments {
  HopperFirstStageNchw p;
  TensorMap x[2];
};

template <class M, int kColumnBlocks>
struct HopperFirstStageNchwBlock {
  using E = Element<M>;
  static constexpr int kColumns = 8 * kColumnBlocks, kHalf = kColumns / 2;  // accumulators of 64 pixels, in each thread
  static constexpr int kXBytes = kTilePixels * kBlockBytes, kWeightBytes = kColumns * kBlockBytes;
  static constexpr int kStageBytes = kXBytes + 2 * kWeightBytes;
  static constexpr int kBlockDepth = kBlockBytes / int(sizeof(E));
  static constexpr int kPassColumns = 8 * kPassBlocks, kPasses = (kColumnBlocks + kPassBlocks - 1) / kPassBlocks;
  static constexpr uint32_t kEightRows = 8 * kBlockBytes, kStepBytes = 32;  // of the weights
  static constexpr int kSteps = kBlockBytes / int(kStepBytes);
  static constexpr int kWarps = kGroupSize / 32;

  const HopperFirstStageNchwArguments& arguments;
  unsigned char* ring;
  const int rank;

  GCN_DEVICE const HopperFirstStageNchw& p() const { return arguments.p; }

  // --- shared memory
  GCN_DEVICE unsigned char* stage_at(int slot) const { return ring + slot * kStageBytes; }
  GCN_DEVICE float* scratch_of(int side) const {
    return reinterpret_cast<float*>(ring + p().stages * kStageBytes) + side * (kPassColumns * kScratchRow + p().sums);
  }
  GCN_DEVICE Barrier* full(int slot) const { return reinterpret_cast<Barrier*>(scratch_of(2)) + slot; }
  GCN_DEVICE Barrier* empty(int slot) const { return full(kHopperStagesMost) + slot; }
  GCN_DEVICE Lag lag() const { return {empty(kHopperStagesMost), p().stages / 2}; }

  // --- units of work
  struct Unit {
    int tile, axis, pair, split, first, last;  // k-blocks
  };
  GCN_DEVICE int pairs(int axis) const { return (p().stage.branch[axis].groups + 1) / 2; }
  GCN_DEVICE int tile_groups() const { return (p().stage.tiles + p().cluster - 1) / p().cluster; }
  GCN_DEVICE int units() const { return tile_groups() * (pairs(0) + pairs(1)) * p().stage.splits; }
  GCN_DEVICE Unit unit_at(int i) const {
    const int which = i % (pairs(0) + pairs(1));
    i /= pairs(0) + pairs(1);
    const int axis = which >= pairs(0), split = i / tile_groups(), tile = i % tile_groups() * p().cluster + rank;
    const auto start = [&](int s) { return int(int64_t(p().stage.k_blocks) * s / p().stage.splits); };
    return {tile, axis, which - axis * pairs(0), split, start(split), start(split + 1)};
  }
  template <class Work>
  GCN_DEVICE void for_each_unit(const Work& work) const {
    const int step = int(gridDim.x) / p().cluster;
    for (int i = int(blockIdx.x) / p().cluster; i < units(); i += step) work(unit_at(i));
  }

  // --- the warpgroup that copies: one warp, each lane one box of x, and the first two the weights

  GCN_DEVICE void copy_weights(const Unit& u, int group_of_pair, int k_block, int slot) const {
    const FirstStageBranch& b = p().stage.branch[u.axis];
    const int64_t block = int64_t(u.pair * 2 + group_of_pair) * p().stage.k_blocks + k_block;
    const unsigned char* from = static_cast<const unsigned char*>(b.weights) + block * kWeightBytes;
    unsigned char* to = stage_at(slot) + kXBytes + group_of_pair * kWeightBytes;
    if (p().cluster == 1) {
      copy_bulk(to, from, kWeightBytes, full(slot));
    } else if (group_of_pair == rank) {
      copy_bulk_multicast(to, from, kWeightBytes, full(slot), 3);
    }
  }

  // Where a lane's box is takes a few hundred clocks of divisions: once for a unit.
  GCN_DEVICE void copy_all(int lane) const {
    int slot = 0;
    uint32_t parity = 1;  // of the phase before: the ring is empty
    for_each_unit([&](const Unit& u) {
      const FirstStageBranch& b = p().stage.branch[u.axis];
      const int groups = min(2, b.groups - u.pair * 2);
      const int first = min(lane * p().run[u.axis] * p().box_runs[u.axis], kTilePixels);
      const Position at = line_position(u.tile * kTilePixels + first, u.axis, b.interleave, p().stage.h, p().stage.w);
      for (int k_block = u.first; k_block < u.last; ++k_block) {
        barrier_wait(empty(slot), parity);
        if (lane == 0) barrier_expect(full(slot), kXBytes + groups * kWeightBytes);
        __syncwarp();  // nothing comes before it is expected
        if (lane < groups) copy_weights(u, lane, k_block, slot);
        if (first < kTilePixels) {
          copy_tensor_4d(stage_at(slot) + first * kBlockBytes, &arguments.x[u.axis], at.w, k_block * kBlockDepth, at.h, at.n,
                         full(slot));
        }
        if (++slot == p().stages) slot = 0, parity ^= 1;
      }
    });
  }

  // --- a warpgroup that multiplies

  struct Consumer {
    int side, thread, lane, warp;  // of the two warpgroups; within the warpgroup
    int slot = 0, taken = 0;
    uint32_t parity = 0;
  };

  // A stage is free when all warps have said so, in every block of the cluster.
  GCN_DEVICE void let_go(const Consumer& c, int slot) const {
    if (c.lane < p().cluster) barrier_arrive_at(empty(slot), c.lane);
  }

  // x as it would be at address 0.
  GCN_DEVICE uint64_t form_of_x(int axis) const {
    const uint32_t run = uint32_t(p().run[axis]), eight_channels = 16 * run, next_run = 64 * run;
    switch (run) {
      case 8:
        return operand(0, eight_channels, next_run, Swizzle::kNone);
      case 16:
        return operand(0, next_run, eight_channels, Swizzle::k32);
      case 32:
        return operand(0, next_run, eight_channels, Swizzle::k64);
      default:
        return operand(0, next_run, eight_channels, Swizzle::k128);
    }
  }

  GCN_DEVICE void multiply(float (&low)[kHalf], float (&high)[kHalf], const Consumer& c, uint64_t form, uint32_t x_step,
                           bool add) const {
    const uint32_t x = shared_address(stage_at(c.slot)), w = x + kXBytes + c.side * kWeightBytes;
    const uint64_t of_x = placed(form, x), of_w = operand(w, 0, kEightRows, Swizzle::k64);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint64_t of_low = moved(of_x, step * x_step), of_step = moved(of_w, step * kStepBytes);
      const bool onto = add || step > 0;
      wgmma<kColumns, true, false>(low, of_low, of_step, onto, M{});
      wgmma<kColumns, true, false>(high, moved(of_low, kXBytes / 2), of_step, onto, M{});
    }
  }

  GCN_DEVICE void next_step(Consumer& c) const {
    lag().count(c.taken, c.side, c.lane);
    if (++c.slot == p().stages) c.slot = 0, c.parity ^= 1;
  }

  GCN_DEVICE void product(float (&low)[kHalf], float (&high)[kHalf], Consumer& c, const Unit& u) const {
    const uint64_t form = form_of_x(u.axis);
    const uint32_t x_step = kStepBytes * uint32_t(p().run[u.axis]);
    int before = -1;  // the slot whose products are in flight
    for (int k_block = u.first; k_block < u.last; ++k_block) {
      barrier_wait(full(c.slot), c.parity);
      wgmma_fence();
      multiply(low, high, c, form, x_step, k_block > u.first);
      wgmma_commit();
      wgmma_wait<1>();
      if (before >= 0) let_go(c, before);
      before = c.slot;
      next_step(c);
    }
    wgmma_wait<0>();
    wgmma_results(low);
    wgmma_results(high);
    let_go(c, before);
  }

  // Of a unit with one group, the other warpgroup only lets go of what comes by.
  GCN_DEVICE void pass_over(Consumer& c, const Unit& u) const {
    for (int k_block = u.first; k_block < u.last; ++k_block) {
      barrier_wait(full(c.slot), c.parity);
      let_go(c, c.slot);
      next_step(c);
    }
  }

  struct Group {  // of middle channels
    int first_mid, mids, first_tap, taps, slot;
  };
  GCN_DEVICE Group group_of(const Unit& u, int index) const {
    const FirstStageBranch& b = p().stage.branch[u.axis];
    const int first_mid = index / b.tap_groups * b.group_mid, tap_group = index % b.tap_groups;
    const int first_tap = tap_group * b.group_taps;
    return {first_mid, min(b.group_mid, b.mid - first_mid), first_tap, min(b.group_taps, b.taps - first_tap),
            u.split * b.tap_groups + tap_group};
  }

  // Columns pass * 32 ... of T, transposed: scratch[column][pixel].
  template <int kPass>
  GCN_DEVICE void store_pass(const float (&low)[kHalf], const float (&high)[kHalf], float* scratch, const Consumer& c) const {
#pragma unroll
    for (int j = kPass * kPassBlocks; j < kColumnBlocks && j < (kPass + 1) * kPassBlocks; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = (j - kPass * kPassBlocks) * 8 + c_column(c.lane, i), row = c.warp * 16 + c_row(c.lane, i);
        store_shared(scratch + column * kScratchRow + row, low[j * 4 + i]);
        store_shared(scratch + column * kScratchRow + row + kTilePixels / 2, high[j * 4 + i]);
      }
    }
  }

  // Adds the taps whose columns are in this pass. Each thread has its own positions, in every pass the same.
  GCN_DEVICE void add_taps(int pass, const float* scratch, float* sums, const Consumer& c, const Unit& u, const Group& g) const {
    const FirstStageBranch& b = p().stage.branch[u.axis];
    const int total = p().stage.n * p().stage.h * p().stage.w, extent = kTilePixels + 2 * b.overhang, step = b.interleave;
    // Column t * mids + m is in this pass from a tap on, or one later for the first of the m, and until another.
    const int first_column = pass * kPassColumns, end_column = first_column + kPassColumns;
    const int first_tap = first_column / g.mids, first_later = first_column % g.mids;
    const int end_tap = end_column / g.mids, end_later = end_column % g.mids;
    for (int e = c.thread - b.overhang; e < kTilePixels + b.overhang; e += kGroupSize) {
      const int q = u.tile * kTilePixels + e;
      if (q < 0 || q >= total) continue;
      // Taps whose source is in this position's line and in this tile.
      const int position = position_in_line(q, b);
      const int low = max(b.radius - position, b.radius - floor_div(e, step)) - g.first_tap;
      const int high = min(b.length - position + b.radius, b.radius + floor_div(kTilePixels - 1 - e, step) + 1) - g.first_tap;
      const float* source = scratch + e + step * (g.first_tap - b.radius) - first_column * kScratchRow;
      for (int m = 0; m < g.mids; ++m) {
        const int from = max(low, first_tap + (m < first_later)), to = min(min(high, g.taps), end_tap + (m < end_later));
        float sum = load_shared(sums + m * extent + e + b.overhang);
        for (int t = from; t < to; ++t) sum += load_shared(source + (t * g.mids + m) * kScratchRow + t * step);
        store_shared(sums + m * extent + e + b.overhang, sum);
      }
    }
  }

  template <int kPass>
  GCN_DEVICE void passes(const float (&low)[kHalf], const float (&high)[kHalf], float* scratch, float* sums, const Consumer& c,
                         const Unit& u, const Group& g) const {
    if constexpr (kPass < kPasses) {
      store_pass<kPass>(low, high, scratch, c);
      group_barrier(1 + c.side, kGroupSize);
      add_taps(kPass, scratch, sums, c, u, g);
      group_barrier(1 + c.side, kGroupSize);
      passes<kPass + 1>(low, high, scratch, sums, c, u, g);
    }
  }

  GCN_DEVICE void write_u(const float* sums, const Consumer& c, const Unit& u, const Group& g) const {
    const FirstStageBranch& b = p().stage.branch[u.axis];
    const int total = p().stage.n * p().stage.h * p().stage.w;
    const int width = g.first_mid + g.mids == b.mid ? b.mid_padded - g.first_mid : g.mids;
    for (int i = c.thread; i < kTilePixels * width; i += kGroupSize) {
      const int m = i % width, e = i / width, q = u.tile * kTilePixels + e;
      if (q >= total) break;
      const Position at = line_position(q, u.axis, b.interleave, p().stage.h, p().stage.w);
      const int64_t pixel = (int64_t(at.n) * p().stage.h + at.h) * p().stage.w + at.w;
      float value = 0;
      if (m < g.mids) {
        value = load_shared(sums + m * kTilePixels + e);
        if (b.bias) value += to_float(static_cast<const E*>(b.bias)[g.first_mid + m]);
      }
      static_cast<E*>(b.u)[pixel * b.mid_padded + g.first_mid + m] = from_float<E>(value);
    }
  }

  GCN_DEVICE void write_partial(const float* sums, const Consumer& c, const Unit& u, const Group& g) const {
    const FirstStageBranch& b = p().stage.branch[u.axis];
    const int extent = kTilePixels + 2 * b.overhang;
    float* to = b.partial + ((int64_t(g.slot) * p().stage.tiles + u.tile) * b.mid + g.first_mid) * extent;
    for (int i = c.thread; i < g.mids * extent; i += kGroupSize) to[i] = load_shared(sums + i);
  }

  GCN_DEVICE void finish(const float (&low)[kHalf], const float (&high)[kHalf], const Consumer& c, const Unit& u) const {
    const FirstStageBranch& b = p().stage.branch[u.axis];
    const Group g = group_of(u, u.pair * 2 + c.side);
    float *scratch = scratch_of(c.side), *sums = scratch + kPassColumns * kScratchRow;
    for (int i = c.thread; i < g.mids * (kTilePixels + 2 * b.overhang); i += kGroupSize) store_shared(sums + i, 0.0f);
    passes<0>(low, high, scratch, sums, c, u, g);
    if (u.tile >= p().stage.tiles) {
      // The second block of the last cluster may have no tile.
    } else if (b.u) {
      write_u(sums, c, u, g);
    } else {
      write_partial(sums, c, u, g);
    }
    group_barrier(1 + c.side, kGroupSize);  // before the sums are cleared for the next unit
  }

  GCN_DEVICE void multiply_all(int side) const {
    const int thread = int(threadIdx.x) % kGroupSize;
    Consumer c{side, thread, thread % 32, thread / 32};
    lag().wait(side);
    for_each_unit([&](const Unit& u) {
      if (u.pair * 2 + side < p().stage.branch[u.axis].groups) {
        float low[kHalf], high[kHalf];
        product(low, high, c, u);
        finish(low, high, c, u);
      } else {
        pass_over(c, u);
      }
    });
    lag().end(c.taken, side, c.lane);
  }

  GCN_DEVICE void run() const {
    if (threadIdx.x == 0) {
      for (int slot = 0; slot < p().stages; ++slot) {
        barrier_init(full(slot), 1);
        barrier_init(empty(slot), 2 * kWarps * p().cluster);
      }
      lag().make(kWarps);
      fence_barrier_init();
    }
    wait_for_dependencies();  // the packed weights, and maybe x
    cluster_sync();
    const int warpgroup = of_first_lane(int(threadIdx.x) / kGroupSize);
    if (warpgroup == 0) {
      registers_give_up<kRegistersCopying>();
      if (threadIdx.x < 32) copy_all(int(threadIdx.x));
    } else {
      registers_take<kRegistersMultiplying>();
      multiply_all(warpgroup - 1);
    }
    cluster_sync();  // before either block ends, nobody sends it anything any more
  }
};

template <class M, int kColumnBlocks>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_first_stage_nchw_kernel(GCN_PARAMS HopperFirstStageNchwArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  unsigned char* ring = shared + (kSwizzleAlignment - shared_address(shared) % kSwizzleAlignment) % kSwizzleAlignment;
  HopperFirstStageNchwBlock<M, kColumnBlocks>{arguments, ring, cluster_rank()}.run();
}

template <class M>
int launch_hopper_first_stage_nchw(int column_blocks, const HopperFirstStageNchw& p, int blocks, int shared_bytes, Stream s) {
  HopperFirstStageNchwArguments arguments{p, {}};
  for (int axis = 0; axis < 2; ++axis) {
    if (const cudaError_t error = encode(p.x[axis], &arguments.x[axis])) return error;
  }
  const Launch how{dim3(unsigned(blocks)), kHopperThreads, size_t(shared_bytes), s.stream, s.dependent};
  switch (column_blocks) {
    case 8:
      return launch_cluster(hopper_first_stage_nchw_kernel<M, 8>, how, p.cluster, arguments);
    case 16:
      return launch_cluster(hopper_first_stage_nchw_kernel<M, 16>, how, p.cluster, arguments);
    case 21:
      return launch_cluster(hopper_first_stage_nchw_kernel<M, 21>, how, p.cluster, arguments);
    case 22:
      return launch_cluster(hopper_first_stage_nchw_kernel<M, 22>, how, p.cluster, arguments);
  }
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
