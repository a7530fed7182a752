// First stage of the block for Hopper, from channels_last x: both middle maps by wgmma on what the copy engine brings, with the
// shift over the taps on both sides of the product.
//
//   T_j[s, m] = sum_i sum_c x[s + b_i - radius, c] w[m, c, b_i + j]        j = 0 ... g - 1, b_i = 0, g, 2 g ...
//   u[p, m]   = b[m] + sum_j T_j[p + j, m]                                 positions p and s along the line
//
// A matrix product on the tensor cores has 64 rows: here they are g taps of up to 32 middle channels, 3 of 21 for the paper's.
// Which x a group of taps meets is a step of the address (the input side), and only g taps are left to be added up when the
// product is done (the output side). So T is g columns wide instead of k, nearly all rows are useful (63 of 64), and every unit
// of x in shared memory feeds 64 rows. The last group starts at b = k - g and may overlap the one before: of a tap that both
// have, each has half of the weight (a weight of zero times an infinity would not be nothing).
//
// Pixels. Eight neighbouring lines are a bundle, and x lies in shared memory as [position][8 lines][64 bytes of channels]: a step
// along the lines is 512 bytes, which the permutation of 64-byte rows does not notice. Work comes in items, a bundle and up to
// 35 - g positions of it: D is [64 rows][34 positions x 8 lines], low (18 positions) and high (16), and once more positions 4 to
// 17 for the first groups of taps (early): 192 registers a thread. The line ends in zeros, which the copy engine writes. Of long
// items, products with what lies in front of or behind the line are left out where that is many positions: at k = 15 lines of 32
// and 64 positions need 91 and 97 % of k products a position. Of short ones none is: to ask would cost more.
//
// Who owns what: blocks are persistent, one to an SM. A unit of work is a branch, 64 rows, two items and a split of the channels.
// Warpgroup 0 copies (three threads, one for each ring); warpgroups 1 and 2 have an item each and share the weights.
//
// Shared memory, from an address that is a multiple of 1024:
//   for either item a ring of windows, each of one k-block (64 bytes of channels), [positions + k - g][8][64 B], 23552 bytes;
//   ring of weights, each of one k-block and up to five groups of taps, [64 rows][64 B] each, 20480 bytes;
//   for each item 13 positions of its products, [64 rows][13 positions][8 lines] in floats, 26624 bytes; barriers.
//
// Pipeline (hopper_block.cuh): when the first products of a stage of weights have been issued, what came before is waited for and
// released. Warpgroup 2 starts half a ring of weights behind warpgroup 1: while one adds up its taps and writes, the other has
// the tensor cores. The first windows are copied while the launch before still packs the weights.
//
// Clusters, where they save anything: two blocks with neighbouring items need the same weights at the same time; each loads 32
// rows and sends them to both. Where the channels are split, combine.cuh adds up what the splits have: that takes less time than
// blocks of a larger cluster did that read each other's sums, of which an H100 runs fewer side by side than it has room for.
//
// Cost of a k-block in 16 bits, k = 15, M = 21, lines longer than 64: 5 groups x 64 x 544 x 32 products are 2720 clocks at 2048 a
// clock; wgmma reads 20 x (2 x 64 + 272) x 32 bytes of shared memory, 2000 clocks, and 66 KB are written into it, 520 clocks; as
// many come from L2 but for the zeros, 24 B a clock, or 20 in clusters. A warp has about 40 instructions for a step beside its
// four wgmma, 200 clocks on an H100 where the products take 272. The end of an item is about 1000 instructions of a warp:
// of its 32 positions 11 at a time are complete, 68 stores and 27 loads for each of three octets.
//
// Weights in registers instead would save 320 of the 2520 clocks of shared memory, but the tensor cores bind; and those of two
// steps in flight take 16 registers, where 17 are left.
#pragma once

#include "../first_stage.cuh"
#include "hopper_block.cuh"
#include "hopper_first_stage_end.cuh"
#include "hopper_kernels.h"

namespace gcn::cuda {

struct HopperFirstStageArguments {
  HopperFirstStage p;
  TensorMap x[2];
};

template <class M>
struct HopperFirstStageBlock {
  using E = Element<M>;
  static constexpr int kBlockDepth = kBlockBytes / int(sizeof(E));
  static constexpr RoleRegisters kRegisters{kProducerRegisters, kConsumerRegisters};
  static constexpr uint32_t kStepBytes = 32, kSteps = kBlockBytes / kStepBytes;

  const HopperFirstStageArguments& arguments;
  unsigned char* shared;
  const int rank;
  Barrier* const barriers;
  Ring<true> weights;
  Ring<> windows;  // of the one item that this thread has to do with
  StaggeredStart stagger;

  GCN_DEVICE const HopperFirstStage& p() const { return arguments.p; }
  GCN_DEVICE int cluster() const { return p().sharing; }
  GCN_DEVICE const FirstStageBranch& branch(int axis) const { return p().stage.branch[axis]; }

  // --- shared memory
  GCN_DEVICE unsigned char* window_at(int slot, int side) const { return shared + (2 * slot + side) * p().window_bytes; }
  GCN_DEVICE int stage_bytes() const { return p().stage_steps * kRowBlockBytes; }
  GCN_DEVICE unsigned char* weights_at(int slot) const { return window_at(p().windows, 0) + slot * stage_bytes(); }
  GCN_DEVICE float* sums_of(int side) const {
    float* sums = reinterpret_cast<float*>(weights_at(p().stages));
    return sums + side * kEndSums;
  }
  // Barriers are in places that do not depend on how many there are.
  GCN_DEVICE Ring<> windows_of(int side) const {
    Barrier* full = barriers + 2 * kRowStagesMost + 2 * side * kWindowsMost;
    return {full, full + kWindowsMost, p().windows};
  }

  GCN_DEVICE void make_barriers() const {
    for (int axis = 0; axis < 2; ++axis) prefetch(&arguments.x[axis]);
    weights.make(2);
    for (int side = 0; side < 2; ++side) windows_of(side).make(1);
    stagger.make();
  }

  // --- units of work
  using Unit = FirstStageUnit;
  using Item = FirstStageItem;

  GCN_DEVICE int items(int axis) const { return p().stage.n * p().bundles[axis] * p().segments[axis]; }
  GCN_DEVICE int pairs(int axis) const { return (items(axis) + 1) / 2; }
  GCN_DEVICE int mid_groups(int axis) const { return branch(axis).groups / branch(axis).tap_groups; }

  // Neighbouring units have the same pixels. Where an axis has fewer pairs of items than the other, units of its are left out.
  // Blocks of a cluster have neighbouring pairs of items.
  template <class Work>
  GCN_DEVICE void for_each_unit(const Work& work) const {
    const int groups = mid_groups(0) + mid_groups(1);
    const int pair_groups = (max(pairs(0), pairs(1)) + p().sharing - 1) / p().sharing;
    const int splits = p().stage.splits;
    const int least = p().stage.k_blocks / splits, with_one_more = p().stage.k_blocks % splits;  // k-blocks of a split
    const auto start = [&](int split) { return split * least + min(split, with_one_more); };
    for_each_unit_of(groups * pair_groups * splits, p().sharing, [&](int i, int) {
      const int which = i % groups, axis = which >= mid_groups(0), at = i / groups;
      const int split = at / pair_groups, first_pair = at % pair_groups * p().sharing;
      if (first_pair >= pairs(axis)) return;
      work(Unit{axis, which - axis * mid_groups(0), first_pair + rank, split, start(split), start(split + 1)});
    });
  }

  GCN_DEVICE Item item_of(const Unit& u, int side) const {
    const int i = u.pair * 2 + side, segments = p().segments[u.axis], bundles = p().bundles[u.axis];
    const int first = i % segments * p().outputs[u.axis];
    return {i / segments / bundles, i / segments % bundles * kBundle, first,
            min(p().outputs[u.axis], branch(u.axis).length - first), i < items(u.axis)};
  }

  // Where group `step` of the taps starts.
  GCN_DEVICE int base_of(const FirstStageBranch& b, int step) const { return min(step * b.group_taps, b.taps - b.group_taps); }

  // --- the producer warpgroup: a thread for each ring, the first of a warp

  // The launch before packs the weights, and maybe x. Whoever wrote an x that was given has ended: only a call's own launches
  // overlap.
  GCN_DEVICE bool starts_early() const { return threadIdx.x / 32 < 2 && p().stage.x_given; }

  GCN_DEVICE void copy_all() {
    const int warp = int(threadIdx.x) / 32;
    if (int(threadIdx.x) % 32 != 0) return;
    if (warp < 2) {
      windows = windows_of(warp);
      copy_windows(warp);
    } else if (warp == 2) {
      copy_weights();
    }
  }

  GCN_DEVICE void copy_windows(int side) {
    for_each_unit([&](const Unit& u) {
      const Item item = item_of(u, side);
      if (!item.valid) return;
      const int bytes = p().window_positions[u.axis] * kPositionBytes;
      const int first = item.first - branch(u.axis).radius + p().window_front[u.axis];
      for (int k_block = u.first; k_block < u.last; ++k_block) {
        windows.start_filling(bytes);
        copy_tensor_4d(window_at(windows.slot, side), &arguments.x[u.axis], k_block * kBlockDepth, item.line, first, item.n,
                       windows.full + windows.slot);
        windows.next();
      }
    });
  }

  // A group of taps of a k-block, or this block's half of it for both.
  GCN_DEVICE void copy_rows(unsigned char* to, const unsigned char* from) const {
    Barrier* full = weights.full + weights.slot;
    if (p().sharing == 1) {
      copy_bulk(to, from, kRowBlockBytes, full);
    } else {
      const int half = rank * (kRowBlockBytes / 2);
      copy_bulk_multicast(to + half, from + half, kRowBlockBytes / 2, full, 3);
    }
  }

  GCN_DEVICE void copy_weights() {
    for_each_unit([&](const Unit& u) {
      const int steps = branch(u.axis).tap_groups;
      const uint32_t next_step = uint32_t(p().stage.k_blocks) * kRowBlockBytes;
      const unsigned char* from = static_cast<const unsigned char*>(branch(u.axis).weights) +
                                  (int64_t(u.group) * steps * p().stage.k_blocks + u.first) * kRowBlockBytes;
      for (int k_block = u.first; k_block < u.last; ++k_block, from += kRowBlockBytes) {
        for (int step = 0; step < steps; weights.next()) {
          const int stage_end = min(step + p().stage_steps, steps);
          weights.start_filling((stage_end - step) * kRowBlockBytes);
          unsigned char* to = weights_at(weights.slot);
          for (; step < stage_end; ++step, to += kRowBlockBytes) copy_rows(to, from + int64_t(step) * next_step);
        }
      }
    });
  }

  // --- a consumer warpgroup

  using Sums = FirstStageSums;
  using Consumer = FirstStageConsumer;

  // wgmma cuts tf32 off where mma.sync's operands are rounded in registers, which would cost half a bit and be a bias. So the
  // window is rounded where it lies, before the item's first product with it.
  GCN_DEVICE void round_window(unsigned char* window, const Consumer& c, int axis) const {
    uint4* pieces = reinterpret_cast<uint4*>(window);
    for (int i = c.thread; i < p().window_positions[axis] * kPositionBytes / kPieceBytes; i += kGroupSize) {
      const uint4 x = load_shared(pieces + i);
      store_shared(pieces + i, make_uint4(round_to_tf32(x.x), round_to_tf32(x.y), round_to_tf32(x.z), round_to_tf32(x.w)));
    }
    fence_async_proxy();
    group_barrier(1 + c.side, kGroupSize);
  }

  // Operands differ in their address alone, which is counted in units of 16 bytes, as descriptors have it.
  static constexpr uint64_t kForm = operand(0, 0, kPositionBytes, Swizzle::k64);
  static constexpr uint32_t kStep = kStepBytes / 16, kPosition = kPositionBytes / 16;
  static GCN_DEVICE uint32_t units_of(const void* p) { return uint32_t(placed(0, shared_address(p))); }

  // The first kCount positions of a part += rows of weights times as many positions of a window. A register array can be taken
  // a piece of only from its start.
  template <int kCount, int kSize>
  GCN_DEVICE void product_step(float (&part)[kSize], uint32_t w, uint32_t x) const {
    wgmma<kBundle * kCount, false, false>(reinterpret_cast<float (&)[4 * kCount]>(part), kForm | w, kForm | x, true, M{});
  }
  // A group of its own: to close one behind a branch takes ptxas an empty product.
  template <int kCount, int kSize>
  GCN_DEVICE void product(float (&part)[kSize], uint32_t w, uint32_t x) const {
    wgmma_fence();
#pragma unroll
    for (uint32_t step = 0; step < kSteps; ++step) product_step<kCount>(part, w + step * kStep, x + step * kStep);
    wgmma_commit();
  }

  // A step: one group of taps with one k-block.
  GCN_DEVICE void multiply(Sums& d, uint32_t products, uint32_t w, uint32_t x) const {
    const uint32_t x_high = x + kLowPositions * kPosition;
    if (products == (kLow | kHigh)) {
      wgmma_fence();
#pragma unroll
      for (uint32_t step = 0; step < kSteps; ++step) {
        product_step<kLowPositions>(d.low, w + step * kStep, x + step * kStep);
        product_step<kHighPositions>(d.high, w + step * kStep, x_high + step * kStep);
      }
      wgmma_commit();
      return;
    }
    if (products == kLow) return product<kLowPositions>(d.low, w, x);  // of short items, always
    if (products & kLow) {
      product<kLowPositions>(d.low, w, x);
    } else if (products & kEarly) {
      product<kEarlyPositions>(d.early, w, x + kEarlyFrom * kPosition);
    }
    if (products & kHigh) {
      product<kHighPositions>(d.high, w, x_high);
    } else if (products & kHighCut) {
      product<kHighCutPositions>(d.high, w, x_high);
    }
  }

  // Until all products are done but those of the last step, and releases what the others have read.
  GCN_DEVICE void wait_for_all_but(uint32_t last, const Consumer& c) {
    const bool low = last & (kLow | kEarly), high = last & (kHigh | kHighCut);
    if (last == 0) {
      wgmma_wait<0>();
    } else if (low && high && last != (kLow | kHigh)) {
      wgmma_wait<2>();
    } else {
      wgmma_wait<1>();
    }
    weights.release_in_flight(c.lane);
    windows.release_in_flight(c.lane);
  }

  // The steps of a stage: of each what it multiplies, and the group's first tap.
  static constexpr int kStepBits = kProductBits + 8;
  static_assert(kStageStepsMost * kStepBits <= 64, "the steps of a stage are one number");
  static_assert(kBoxMost <= 1 << (kStepBits - kProductBits), "a tap is less than the positions of a window");
  GCN_DEVICE uint64_t steps_from(int first, const FirstStageBranch& b, const Item& item) const {
    uint64_t steps = 0;
    for (int i = 0; i < min(p().stage_steps, b.tap_groups - first); ++i) {
      const int base = base_of(b, first + i);
      const PositionRange inside = positions_inside(item.first, item.outputs + b.group_taps - 1, base, b.length, b.radius);
      steps |= uint64_t(first_stage_products(inside) | uint32_t(base) << kProductBits) << i * kStepBits;
    }
    return steps;
  }

  // The products of a unit. Those of one step are 272 clocks in one warpgroup, and whatever else it does for a step must take
  // less than that, at six clocks an instruction and thirty a branch: what a step multiplies is found out before the loops,
  // addresses are only added to, and what came before is waited for when the first products of a stage have been issued.
  GCN_DEVICE void product_of_unit(Sums& d, const Consumer& c, const Unit& u, const Item& item) {
    const FirstStageBranch& b = branch(u.axis);
    const int stage_steps = p().stage_steps;
    const uint32_t next_stage = uint32_t(stage_bytes()) / 16, next_window = uint32_t(2 * p().window_bytes) / 16;
    const uint32_t weights_start = units_of(weights_at(0));
    const uint32_t window_start = units_of(window_at(0, c.side)) - p().window_front[u.axis] * kPosition;
    const auto step_of = [&](uint64_t steps, uint32_t w, uint32_t x) {
      const uint32_t step = uint32_t(steps) % (1 << kStepBits);
      multiply(d, step % (1 << kProductBits), w, x + (step >> kProductBits) * kPosition);
    };
    uint64_t steps_of_stage = steps_from(0, b, item);
    for (int k_block = u.first; k_block < u.last; ++k_block) {
      windows.wait_until_full();
      if (kIsTf32<M>) round_window(window_at(windows.slot, c.side), c, u.axis);
      const uint32_t x = window_start + windows.slot * next_window;
      for (int first = 0; first < b.tap_groups; first += stage_steps) {
        weights.wait_until_full();
        if (b.tap_groups > stage_steps) steps_of_stage = steps_from(first, b, item);
        uint64_t steps = steps_of_stage;
        uint32_t w = weights_start + weights.slot * next_stage;
        step_of(steps, w, x);
        wait_for_all_but(uint32_t(steps) % (1 << kProductBits), c);
        for (int left = min(stage_steps, b.tap_groups - first) - 1; left > 0; --left) {
          steps >>= kStepBits;
          w += kRowBlockBytes / 16;
          step_of(steps, w, x);
        }
        weights.next_in_flight();
        stagger.count();
      }
      windows.next_in_flight();
    }
    wait_for_all_but(0, c);
    wgmma_results(d.low);
    wgmma_results(d.high);
    wgmma_results(d.early);
#pragma unroll
    for (int i = 0; i < 4 * kEarlyPositions; ++i) d.low[4 * kEarlyFrom + i] += d.early[i];
  }

  // Of a unit without an item for this warpgroup, the weights that come by are only released.
  GCN_DEVICE void pass_over(const Consumer& c, const Unit& u) {
    const int stages = (u.last - u.first) * ((branch(u.axis).tap_groups + p().stage_steps - 1) / p().stage_steps);
    for (int i = 0; i < stages; ++i) {
      weights.wait_until_full();
      weights.release(weights.slot, c.lane);
      weights.next();
      stagger.count();
    }
  }

  GCN_DEVICE void multiply_all(int side) {
    const int thread = int(threadIdx.x) % kGroupSize;
    const Consumer c{side, thread, thread % 32, thread / 32};
    windows = windows_of(side);
    stagger.start(side, c.lane);
    for_each_unit([&](const Unit& u) {
      const Item item = item_of(u, side);
      if (item.valid) {
        Sums d;
        product_of_unit(d, c, u, item);
        HopperFirstStageEnd<M>{p(), branch(u.axis), c, u, item, sums_of(side)}.finish(d);
      } else {
        pass_over(c, u);
      }
    });
    stagger.end();
  }
};

template <class M>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_first_stage_kernel(GCN_PARAMS HopperFirstStageArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  unsigned char* aligned = swizzle_aligned(shared);
  const HopperFirstStage& p = arguments.p;
  Barrier* barriers =
      reinterpret_cast<Barrier*>(aligned + hopper_first_stage_barriers_at(p.windows, p.window_bytes, p.stages, p.stage_steps));
  run_block(HopperFirstStageBlock<M>{arguments,
                                     aligned,
                                     cluster_rank(),
                                     barriers,
                                     {barriers, barriers + kRowStagesMost, p.stages, p.sharing},
                                     {},
                                     {barriers + 2 * kRowStagesMost + 4 * kWindowsMost, p.ahead}});
}

template <class M>
int launch_hopper_first_stage(const HopperFirstStage& p, int blocks, int shared_bytes, Stream s) {
  HopperFirstStageArguments arguments{p, {}};
  for (int axis = 0; axis < 2; ++axis) {
    if (const cudaError_t error = encode(p.x[axis], &arguments.x[axis])) return error;
  }
  const Launch how{dim3(unsigned(blocks)), kHopperThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch_cluster(hopper_first_stage_kernel<M>, how, p.sharing, arguments);
}

// All of these kernels leave a multiprocessor no room for another block.
template <class M>
int hopper_first_stage_clusters(int blocks) {
  constexpr int kSharedBytes = 128 * 1024;
  const Launch how{dim3(unsigned(blocks)), kHopperThreads, kSharedBytes, nullptr, false};
  return clusters_side_by_side(hopper_first_stage_kernel<M>, how, blocks);
}

}  // namespace gcn::cuda
