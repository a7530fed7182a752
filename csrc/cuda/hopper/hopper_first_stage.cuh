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
// 17 for the first groups of taps (early): 192 registers a thread. The line ends in zeros, which the copy engine writes; products
// with what lies in front of or behind it are left out, some positions at a time: at k = 15 lines of 16, 32 and 64 positions need
// 89, 94 and 100 % of k products a position.
//
// Who owns what: blocks are persistent, one to an SM. A unit of work is a branch, 64 rows, two items and a split of the channels.
// Warpgroup 0 copies (two threads); warpgroups 1 and 2 have an item each and share the weights.
//
// Shared memory, from an address that is a multiple of 1024:
//   ring of windows, each of one k-block (64 bytes of channels), [2 items][positions + k - g][8][64 B]; 94208 bytes for two;
//   ring of weights, each of one k-block and one group of taps, [64 rows][64 B], 4096 bytes;
//   for each item the sums u [positions][group_mid][8 lines] in floats, 21504 bytes; barriers.
//
// Pipeline: a stage is full when all its bytes have come, and empty when every warp that multiplies has read it. One product
// group stays in flight while the next is issued. Warpgroup 2 starts half a ring of weights behind warpgroup 1 and keeps that
// distance: while one adds up its taps and writes, the other has the tensor cores.
//
// Clusters, where they save anything: two blocks with neighbouring items need the same weights at the same time; each loads 32
// rows and sends them to both. Or, of a small map, up to eight blocks have a part of the channels each, of the same items; each
// adds up its share of the positions from the shared memory of all. What is split further is left to combine.cuh.
//
// Cost of a k-block in 16 bits, k = 15, M = 21, lines longer than 64: 5 groups x 64 x 544 x 32 products are 2720 clocks at 2048 a
// clock; wgmma reads 20 x (2 x 64 + 272) x 32 bytes of shared memory, 2000 clocks, and 66 KB are written into it, 520 clocks; as
// many come from L2 but for the zeros, 24 B a clock, or 20 in clusters. The end of an item moves its sums five times, 1000
// clocks.
#pragma once

#include "../first_stage.cuh"
#include "hopper_device.cuh"
#include "hopper_kernels.h"
#include "hopper_ring.cuh"
#include "hopper_tiles.h"

namespace gcn::cuda {

struct HopperFirstStageArguments {
  HopperFirstStage p;
  TensorMap x[2];
};

template <class M>
struct HopperFirstStageBlock {
  using E = Element<M>;
  static constexpr int kBlockDepth = kBlockBytes / int(sizeof(E)), kWarps = kGroupSize / 32;
  static constexpr uint32_t kStepBytes = 32;

  const HopperFirstStageArguments& arguments;
  unsigned char* shared;
  const int rank;
  Ring weights, windows;
  const Lag lag;

  GCN_DEVICE const HopperFirstStage& p() const { return arguments.p; }
  GCN_DEVICE const FirstStageBranch& branch(int axis) const { return p().stage.branch[axis]; }

  // --- shared memory
  GCN_DEVICE unsigned char* window_at(int slot, int side) const { return shared + (2 * slot + side) * p().window_bytes; }
  GCN_DEVICE unsigned char* weights_at(int slot) const { return window_at(p().windows, 0) + slot * kRowBlockBytes; }
  GCN_DEVICE float* sums_of(int side) const { return reinterpret_cast<float*>(weights_at(p().stages)) + side * p().sums; }
  GCN_DEVICE Barrier* summed(int side) const { return lag.barrier + 1 + side; }  // by all blocks of a cluster
  GCN_DEVICE Barrier* read(int side) const { return lag.barrier + 3 + side; }    // the same

  // --- units of work
  struct Unit {
    int axis, group, pair, slot, first, last;  // k-blocks
  };
  GCN_DEVICE int items(int axis) const { return p().stage.n * p().bundles[axis] * p().segments[axis]; }
  GCN_DEVICE int pairs(int axis) const { return (items(axis) + 1) / 2; }
  GCN_DEVICE int mid_groups(int axis) const { return branch(axis).groups / branch(axis).tap_groups; }

  // Neighbouring units have the same pixels. Where an axis has fewer pairs of items than the other, units of its are left out.
  // Blocks of a cluster have neighbouring pairs of items, or neighbouring parts of the channels of one pair.
  template <class Work>
  GCN_DEVICE void for_each_unit(const Work& work) const {
    const int groups = mid_groups(0) + mid_groups(1), clusters = int(gridDim.x) / (p().sharing * p().parts);
    const int pair_groups = (max(pairs(0), pairs(1)) + p().sharing - 1) / p().sharing;
    const int slots = p().stage.splits / p().parts;
    const auto start = [&](int split) { return int(int64_t(p().stage.k_blocks) * split / p().stage.splits); };
    for (int i = int(blockIdx.x) / (p().sharing * p().parts); i < groups * pair_groups * slots; i += clusters) {
      const int which = i % groups, axis = which >= mid_groups(0), at = i / groups;
      const int slot = at / pair_groups, first_pair = at % pair_groups * p().sharing;
      if (first_pair >= pairs(axis)) continue;
      const int split = slot * p().parts + rank % p().parts;
      work(Unit{axis, which - axis * mid_groups(0), first_pair + rank / p().parts, slot, start(split), start(split + 1)});
    }
  }

  struct Item {
    int n, line, first, outputs;  // map, first line of the bundle, first position, and how many
    bool valid;
  };
  GCN_DEVICE Item item_of(const Unit& u, int side) const {
    const int i = u.pair * 2 + side, segments = p().segments[u.axis], bundles = p().bundles[u.axis];
    const int first = i % segments * p().outputs[u.axis];
    return {i / segments / bundles, i / segments % bundles * kBundle, first,
            min(p().outputs[u.axis], branch(u.axis).length - first), i < items(u.axis)};
  }

  // Where group `step` of the taps starts.
  GCN_DEVICE int base_of(const FirstStageBranch& b, int step) const { return min(step * b.group_taps, b.taps - b.group_taps); }

  // --- the warpgroup that copies: a thread for each ring

  GCN_DEVICE void copy_windows(const Item (&items)[2], int axis, int k_block) {
    const int bytes = p().window_positions[axis] * kPositionBytes;
    windows.start_filling((items[0].valid + items[1].valid) * bytes);
    for (int side = 0; side < 2; ++side) {
      if (!items[side].valid) continue;
      copy_tensor_4d(window_at(windows.slot, side), &arguments.x[axis], k_block * kBlockDepth, items[side].line,
                     items[side].first - branch(axis).radius + p().window_front[axis], items[side].n,
                     windows.full + windows.slot);
    }
    windows.next();
  }

  GCN_DEVICE void copy_weights(const Unit& u, int k_block, int step) {
    const FirstStageBranch& b = branch(u.axis);
    const int64_t block = (int64_t(u.group) * b.tap_groups + step) * p().stage.k_blocks + k_block;
    const unsigned char* from = static_cast<const unsigned char*>(b.weights) + block * kRowBlockBytes;
    weights.start_filling(kRowBlockBytes);
    if (p().sharing == 1) {
      copy_bulk(weights_at(weights.slot), from, kRowBlockBytes, weights.full + weights.slot);
    } else {
      const int half = rank * (kRowBlockBytes / 2);
      copy_bulk_multicast(weights_at(weights.slot) + half, from + half, kRowBlockBytes / 2, weights.full + weights.slot, 3);
    }
    weights.next();
  }

  GCN_DEVICE void copy_all_windows() {
    for_each_unit([&](const Unit& u) {
      const Item items[2] = {item_of(u, 0), item_of(u, 1)};
      for (int k_block = u.first; k_block < u.last; ++k_block) copy_windows(items, u.axis, k_block);
    });
  }

  GCN_DEVICE void copy_all_weights() {
    for_each_unit([&](const Unit& u) {
      for (int k_block = u.first; k_block < u.last; ++k_block) {
        for (int step = 0; step < branch(u.axis).tap_groups; ++step) copy_weights(u, k_block, step);
      }
    });
  }

  // --- a warpgroup that multiplies

  // D, four numbers a position. `early` is what groups of taps that start in front of the line add to its first positions.
  struct Sums {
    float low[4 * kLowPositions] = {}, high[4 * kHighPositions] = {}, early[4 * kEarlyPositions] = {};
  };

  struct Consumer {
    int side, thread, lane, warp;                 // of the two warpgroups; within the warpgroup
    int taken = 0;                                // stages of weights
    uint32_t parity = 0;                          // of the barriers between the parts of a sum
    int window_before = -1, weights_before = -1;  // slots whose products are in flight
  };

  // A stage of weights is free when all warps have said so, in every block that shares it.
  GCN_DEVICE void let_go_of_weights(const Consumer& c, int slot) const {
    if (p().sharing == 1) {
      weights.let_go(slot, c.lane);
    } else {
      weights.let_go_of_shared(slot, c.lane, p().sharing);
    }
  }

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

  // The first kCount positions of a part += rows of weights times as many positions of a window; a group of its own: to
  // close one behind a branch takes ptxas an empty product. It takes a piece of a register array only from its start.
  template <int kCount, int kSize>
  GCN_DEVICE void product(float (&part)[kSize], uint32_t w, uint32_t x) const {
    auto& d = reinterpret_cast<float (&)[4 * kCount]>(part);
    const uint64_t of_w = operand(w, 0, kPositionBytes, Swizzle::k64), of_x = operand(x, 0, kPositionBytes, Swizzle::k64);
    wgmma_fence();
#pragma unroll
    for (uint32_t step = 0; step < kBlockBytes / kStepBytes; ++step) {
      wgmma<kBundle * kCount, false, false>(d, moved(of_w, step * kStepBytes), moved(of_x, step * kStepBytes), true, M{});
    }
    wgmma_commit();
  }

  // Of the positions in the range, and of some beside it. The products of calls before are done when it returns.
  GCN_DEVICE void multiply(Sums& d, PositionRange range, uint32_t w, uint32_t x) const {
    const uint32_t x_early = x + kEarlyFrom * kPositionBytes, x_high = x + kLowPositions * kPositionBytes;
    const bool low = range.from < kLowPositions && range.from<range.to, high = range.to> kLowPositions && range.from < range.to;
    if (low) {
      const int behind = kLowPositions - range.to;  // positions that may be left out
      if (range.from >= kEarlyFrom) {
        product<kEarlyPositions>(d.early, w, x_early);
      } else if (behind < 4) {
        product<kLowPositions>(d.low, w, x);
      } else if (behind < 7) {
        product<kLowPositions - 4>(d.low, w, x);
      } else {
        product<kLowPositions - 7>(d.low, w, x);
      }
    }
    if (high) {
      const int behind = kLowPositions + kHighPositions - range.to;
      if (behind < 4) {
        product<kHighPositions>(d.high, w, x_high);
      } else if (behind < 7) {
        product<kHighPositions - 4>(d.high, w, x_high);
      } else {
        product<kHighPositions - 7>(d.high, w, x_high);
      }
    }
    if (low && high) {
      wgmma_wait<2>();
    } else if (low || high) {
      wgmma_wait<1>();
    } else {
      wgmma_wait<0>();
    }
  }

  // The products of a unit; of an item that is none, what comes by is only let go of.
  GCN_DEVICE void product_of_unit(Sums& d, Consumer& c, const Unit& u, const Item& item) {
    const FirstStageBranch& b = branch(u.axis);
    const int positions = item.valid ? item.outputs + b.group_taps - 1 : 0;
    for (int k_block = u.first; k_block < u.last; ++k_block) {
      windows.wait_until_full();
      if (kIsTf32<M> && item.valid) round_window(window_at(windows.slot, c.side), c, u.axis);
      const uint32_t x = shared_address(window_at(windows.slot, c.side)) - p().window_front[u.axis] * kPositionBytes;
      for (int step = 0; step < b.tap_groups; ++step) {
        weights.wait_until_full();
        const int base = base_of(b, step);
        multiply(d, positions_inside(item.first, positions, base, b.length, b.radius), shared_address(weights_at(weights.slot)),
                 x + base * kPositionBytes);
        if (c.weights_before >= 0) let_go_of_weights(c, c.weights_before);
        c.weights_before = weights.slot;
        if (c.window_before >= 0) windows.let_go(c.window_before, c.lane), c.window_before = -1;
        weights.next();
        lag.count(c.taken, c.side, c.lane);
      }
      c.window_before = windows.slot;
      windows.next();
    }
    wgmma_wait<0>();
    wgmma_results(d.low);
    wgmma_results(d.high);
    wgmma_results(d.early);
    let_go_of_weights(c, c.weights_before);
    windows.let_go(c.window_before, c.lane);
    c.weights_before = c.window_before = -1;
  }

  // --- the sums over the taps of a group, [position][middle channel][line]

  struct Rows {
    int first_mid, mids;
  };

  // Those of a part whose first position is kFirst, for one tap. `first`: there is nothing yet to add to.
  template <int kFirst, int kSize>
  GCN_DEVICE void add_part(const float (&part)[kSize], float* sums, const Consumer& c, int tap, const Rows& r, int outputs,
                           bool first) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = c.warp * 16 + c_row(c.lane, 2 * half), m = row - tap * r.mids;
      if (m < 0 || m >= r.mids) continue;
#pragma unroll
      for (int i = 0; i < kSize / 4; ++i) {
        const int position = kFirst + i - tap;
        if (position < 0 || position >= outputs) continue;
        float2* to = reinterpret_cast<float2*>(sums + (position * r.mids + m) * kBundle + c_column(c.lane, 0));
        float2 value = make_float2(part[4 * i + 2 * half], part[4 * i + 2 * half + 1]);
        if (!first) {
          const float2 before = load_shared(to);
          value = make_float2(before.x + value.x, before.y + value.y);
        }
        store_shared(to, value);
      }
    }
  }

  // Of the parts that the blocks of a cluster have, in their order.
  GCN_DEVICE float sum_of_parts(const float* at) const {
    if (p().parts == 1) return load_shared(at);
    float sum = 0;
    for (int part = 0; part < p().parts; ++part) sum += load_shared_of(at, part);
    return sum;
  }

  // Positions of an item that this block writes.
  struct Share {
    int from, to;
  };

  GCN_DEVICE void write_u(const float* sums, const Consumer& c, const Unit& u, const Item& item, const Rows& r,
                          Share share) const {
    struct alignas(kPieceBytes) Piece {
      E of[kPiece<E>];
    };
    const FirstStageBranch& b = branch(u.axis);
    const int lines = u.axis == 0 ? p().stage.w : p().stage.h, pixels = (share.to - share.from) * kBundle;
    const int pieces = (r.mids + kOctet - 1) / kOctet * (kOctet / kPiece<E>);
    for (int i = c.thread; i < pixels * pieces; i += kGroupSize) {
      const int pixel = share.from * kBundle + i % pixels, first = i / pixels * kPiece<E>;
      const int position = item.first + pixel / kBundle, line = item.line + pixel % kBundle;
      if (line >= lines) continue;
      const int h = u.axis == 0 ? position : line, w = u.axis == 0 ? line : position;
      Piece piece;
#pragma unroll
      for (int k = 0; k < kPiece<E>; ++k) {
        const int m = first + k;
        float value = 0;
        if (m < r.mids) {
          value = sum_of_parts(sums + (pixel / kBundle * r.mids + m) * kBundle + pixel % kBundle);
          if (b.bias) value += to_float(static_cast<const E*>(b.bias)[r.first_mid + m]);
        }
        piece.of[k] = from_float<E>(value);
      }
      const int64_t at = ((int64_t(item.n) * p().stage.h + h) * p().stage.w + w) * b.mid_padded + r.first_mid + first;
      *reinterpret_cast<Piece*>(static_cast<E*>(b.u) + at) = piece;
    }
  }

  // Pixels are numbered along the lines of a bundle, as combine.cuh reads them.
  GCN_DEVICE void write_partial(const float* sums, const Consumer& c, const Unit& u, const Item& item, const Rows& r,
                                Share share) const {
    const FirstStageBranch& b = branch(u.axis);
    const int pixels = (share.to - share.from) * kBundle;
    const int64_t bundle = int64_t(item.n) * p().bundles[u.axis] + item.line / kBundle;
    const int64_t first = (bundle * b.length + item.first) * kBundle;
    for (int i = c.thread; i < pixels * r.mids; i += kGroupSize) {
      const int pixel = share.from * kBundle + i % pixels, m = i / pixels;
      const int64_t q = first + pixel, row = (u.slot * int64_t(p().stage.tiles) + q / kTilePixels) * b.mid + r.first_mid + m;
      b.partial[row * kTilePixels + q % kTilePixels] =
          sum_of_parts(sums + (pixel / kBundle * r.mids + m) * kBundle + pixel % kBundle);
    }
  }

  GCN_DEVICE void finish(const Sums& d, Consumer& c, const Unit& u, const Item& item) const {
    const FirstStageBranch& b = branch(u.axis);
    const int first_mid = u.group * b.group_mid, part = rank % p().parts;
    const Rows r{first_mid, min(b.group_mid, b.mid - first_mid)};
    float* sums = sums_of(c.side);
    if (p().parts > 1) barrier_wait_cluster(read(c.side), c.parity ^ 1);  // what the other blocks had from the last item
    for (int tap = 0; tap < b.group_taps; ++tap) {
      add_part<0>(d.low, sums, c, tap, r, item.outputs, tap == 0);
      add_part<kLowPositions>(d.high, sums, c, tap, r, item.outputs, tap == 0);
      add_part<kEarlyFrom>(d.early, sums, c, tap, r, item.outputs, false);
      group_barrier(1 + c.side, kGroupSize);
    }
    if (p().parts > 1) {
      if (c.lane < p().parts) barrier_arrive_cluster_at(summed(c.side), c.lane);
      barrier_wait_cluster(summed(c.side), c.parity);
    }
    const Share share{item.outputs * part / p().parts, item.outputs * (part + 1) / p().parts};
    if (b.u) {
      write_u(sums, c, u, item, r, share);
    } else {
      write_partial(sums, c, u, item, r, share);
    }
    if (p().parts > 1) {
      __syncwarp();
      if (c.lane < p().parts) barrier_arrive_cluster_at(read(c.side), c.lane);
      c.parity ^= 1;
    }
    group_barrier(1 + c.side, kGroupSize);  // before the next item's sums take the place
  }

  GCN_DEVICE void multiply_all(int side) {
    const int thread = int(threadIdx.x) % kGroupSize;
    Consumer c{side, thread, thread % 32, thread / 32};
    lag.wait(side);
    for_each_unit([&](const Unit& u) {
      Sums d;
      const Item item = item_of(u, side);
      product_of_unit(d, c, u, item);
      if (item.valid) finish(d, c, u, item);
    });
    lag.end(c.taken, side, c.lane);
  }

  GCN_DEVICE void run() {
    if (threadIdx.x == 0) {
      weights.make(2 * kWarps * p().sharing);
      windows.make(2 * kWarps);
      lag.make(kWarps);
      for (int side = 0; side < 2; ++side) {
        barrier_init(summed(side), kWarps * p().parts);
        barrier_init(read(side), kWarps * p().parts);
      }
      fence_barrier_init();
    }
    wait_for_dependencies();  // the packed weights, and maybe x
    cluster_sync();
    const int warpgroup = of_first_lane(int(threadIdx.x) / kGroupSize);
    if (warpgroup == 0) {
      registers_give_up<kRegistersCopying>();
      if (threadIdx.x == 0) copy_all_windows();
      if (threadIdx.x == 32) copy_all_weights();
      __syncwarp();
    } else {
      registers_take<kRegistersMultiplying>();
      multiply_all(warpgroup - 1);
    }
    cluster_sync();  // a block ends when nobody sends it anything, or reads from it, any more
  }
};

template <class M>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_first_stage_kernel(GCN_PARAMS HopperFirstStageArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  unsigned char* aligned = shared + (kSwizzleAlignment - shared_address(shared) % kSwizzleAlignment) % kSwizzleAlignment;
  const HopperFirstStage& p = arguments.p;
  Barrier* barriers =
      reinterpret_cast<Barrier*>(aligned + hopper_first_stage_barriers_at(p.windows, p.window_bytes, p.stages, p.sums));
  HopperFirstStageBlock<M>{arguments,
                           aligned,
                           cluster_rank(),
                           Ring{barriers, barriers + p.stages, p.stages},
                           Ring{barriers + 2 * p.stages, barriers + 2 * p.stages + p.windows, p.windows},
                           Lag{barriers + 2 * (p.stages + p.windows), p.ahead}}
      .run();
}

template <class M>
int launch_hopper_first_stage(const HopperFirstStage& p, int blocks, int shared_bytes, Stream s) {
  HopperFirstStageArguments arguments{p, {}};
  for (int axis = 0; axis < 2; ++axis) {
    if (const cudaError_t error = encode(p.x[axis], &arguments.x[axis])) return error;
  }
  const Launch how{dim3(unsigned(blocks)), kHopperThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch_cluster(hopper_first_stage_kernel<M>, how, p.sharing * p.parts, arguments);
}

}  // namespace gcn::cuda
