// Gradient of x for Hopper: the portable kernel's sum (line_conv.cuh) by wgmma, both branches in one accumulator.
//
//   dx[p, c] = sum over branches, taps t, middle channels m of du[p + (t - radius) along the branch's axis, m] w[c, m, k - 1 - t]
//
// Who owns what: blocks are persistent, one to an SM. A unit of work is a patch of 16 x 8 pixels and 256 (or 128) channels of x.
// Warpgroup 0 copies (one thread); warpgroups 1 and 2 have eight of the patch's rows each, 64 pixels, and all channels: 128
// registers a thread.
//
// Shared memory, from an address that is a multiple of 1024:
//   ring of stages of weights, each a k-block [channels of x][64 B] as they are packed, K-major in permuted rows of 64 bytes;
//   two sets of windows, one for each branch: of every octet of du's channels the pixels under the patch and its taps,
//   [16 + 2 radius][8] or [16][8 + 2 radius] pixels of 16 bytes; zeros outside of the map come from the copy engine;
//   zeros, as far as eight rows of a window reach; the output on its way, [2][64 pixels][channels + 8]; barriers.
//
// A, K-major without permutation: a block of eight rows is eight neighbouring pixels of the window, the next eight are the
// window's next row. So a tap is a step of the start address. The depth runs in phases over pairs of octets: a step of 16 is one
// tap of both octets, the window of one octet apart; of an octet without a partner it is two taps, one tap apart, and behind the
// last tap stands the block of zeros (a real zero: a weight of zero times NaN would not be one).
//
// Pipeline: weights up to eight stages ahead, windows a unit ahead. Warpgroup 2 starts half a ring of weights behind warpgroup 1
// and keeps that distance: while one writes its output, the other has the tensor cores.
//
// Clusters, where they save anything: two blocks with neighbouring patches need the same weights at the same time; each loads
// half of a stage and sends it to both.
//
// Cost of a unit for k = 15, M = 21: 128 x 256 x 736 products are 11776 clocks at 2048 a clock, 86 % of them useful; each step of
// 16 reads 2 x (64 + 256) x 32 bytes of shared memory, 160 clocks of 256. 377 KB of weights come from L2, 27 B a clock at the
// 1700 products a clock that wgmma is taken to reach, or half of it in clusters.
#pragma once

#include "../fragment.cuh"
#include "hopper_kernels.h"
#include "hopper_ring.cuh"

namespace gcn::cuda {

struct HopperInputGradArguments {
  HopperInputGrad p;
  TensorMap du[2];
};

template <class M, int kOutputs>
struct HopperInputGradBlock {
  static constexpr int kStageBytes = kOutputs * kBlockBytes, kWarps = kGroupSize / 32, kCount = kOutputs / 2;
  static constexpr int kRowBytes = hopper_output_row_bytes(kOutputs), kPixelBytes = 16;

  const HopperInputGradArguments& arguments;
  unsigned char* shared;
  const int rank;
  Ring weights, windows;
  const Lag lag;

  GCN_DEVICE const HopperInputGrad& p() const { return arguments.p; }

  // --- shared memory
  GCN_DEVICE int plane_bytes(int axis) const { return p().window_h[axis] * p().window_w[axis] * kPixelBytes; }
  GCN_DEVICE unsigned char* window_at(int slot, int axis) const {
    return shared + p().stages * kStageBytes + slot * p().windows_bytes + axis * p().octets[0] * plane_bytes(0);
  }
  GCN_DEVICE unsigned char* zeros() const { return window_at(2, 0); }
  GCN_DEVICE unsigned char* output_of(int side) const { return zeros() + p().zeros_bytes + side * 64 * kRowBytes; }

  // --- units of work
  struct Unit {
    int n, h, w, n_tile;
  };
  // Blocks of a cluster have neighbouring patches of the same channels; one past the last patch is outside of the map.
  template <class Work>
  GCN_DEVICE void for_each_unit(const Work& work) const {
    const int in_map = p().patches_h * p().patches_w, groups = (p().n * in_map + p().cluster - 1) / p().cluster;
    for (int i = int(blockIdx.x) / p().cluster; i < groups * p().n_tiles; i += int(gridDim.x) / p().cluster) {
      const int patch = i % groups * p().cluster + rank, at = patch % in_map;
      work(Unit{patch / in_map, at / p().patches_w * kGradPatchH, at % p().patches_w * kGradPatchW, i / groups});
    }
  }

  // Steps of 16 in a phase of a branch: a tap of two octets, or two taps of the last octet.
  GCN_DEVICE bool is_pair(int axis, int phase) const { return 2 * phase + 1 < p().octets[axis]; }
  GCN_DEVICE int steps(int axis, int phase) const { return is_pair(axis, phase) ? p().taps[axis] : (p().taps[axis] + 1) / 2; }
  template <class Work>
  GCN_DEVICE void for_each_k_block(const Work& work) {
    for (int axis = 0; axis < 2; ++axis) {
      for (int phase = 0; phase < (p().octets[axis] + 1) / 2; ++phase) {
        const int all = steps(axis, phase);
        for (int k_block = 0; 2 * k_block < all; ++k_block) work(axis, phase, k_block, min(2, all - 2 * k_block));
      }
    }
  }

  // --- the warpgroup that copies: one thread

  GCN_DEVICE void copy_windows(const Unit& u) {
    windows.start_filling(p().windows_bytes);
    for (int axis = 0; axis < 2; ++axis) {
      const int from_h = u.h - (axis == 0 ? p().radius[0] : 0), from_w = u.w - (axis == 1 ? p().radius[1] : 0);
      for (int o = 0; o < p().octets[axis]; ++o) {
        copy_tensor_4d(window_at(windows.slot, axis) + o * plane_bytes(axis), &arguments.du[axis], o * kOctet, from_w, from_h,
                       u.n, windows.full + windows.slot);
      }
    }
    windows.next();
  }

  GCN_DEVICE void copy_weights(int axis, int64_t block) {
    const unsigned char* from = static_cast<const unsigned char*>(p().weights[axis]) + block * kStageBytes;
    unsigned char* to = shared + weights.slot * kStageBytes;
    weights.start_filling(kStageBytes);
    if (p().cluster == 1) {
      copy_bulk(to, from, kStageBytes, weights.full + weights.slot);
    } else {
      const int half = rank * (kStageBytes / 2);
      copy_bulk_multicast(to + half, from + half, kStageBytes / 2, weights.full + weights.slot, 3);
    }
    weights.next();
  }

  GCN_DEVICE void copy_all() {
    for_each_unit([&](const Unit& u) {
      copy_windows(u);
      for_each_k_block([&](int axis, int phase, int k_block, int) {
        const int phases = (p().octets[axis] + 1) / 2;
        copy_weights(axis, (int64_t(u.n_tile) * phases + phase) * p().k_blocks[axis] + k_block);
      });
    });
  }

  // --- a warpgroup that multiplies

  GCN_DEVICE uint64_t window_operand(int axis, int phase, int step, int side) const {
    const uint32_t row_bytes = p().window_w[axis] * kPixelBytes, tap_bytes = axis == 0 ? row_bytes : kPixelBytes;
    const uint32_t plane = plane_bytes(axis), first = shared_address(window_at(windows.slot, axis)) + 2 * phase * plane;
    const bool pair = is_pair(axis, phase);
    const uint32_t start = first + side * 8 * row_bytes + (pair ? step : 2 * step) * tap_bytes;
    const uint32_t beside = 2 * step + 1 < p().taps[axis] ? tap_bytes : shared_address(zeros()) - start;
    return operand(start, pair ? plane : beside, row_bytes, Swizzle::kNone);
  }

  GCN_DEVICE void product(float (&acc)[kCount], int& taken, int side, int lane) {
    int before = -1;  // the slot whose products are in flight
    bool add = false;
    windows.wait_until_full();
    for_each_k_block([&](int axis, int phase, int k_block, int count) {
      weights.wait_until_full();
      const uint64_t of_w = operand(shared_address(shared + weights.slot * kStageBytes), 0, 8 * kBlockBytes, Swizzle::k64);
      const uint64_t first = window_operand(axis, phase, 2 * k_block, side);
      const uint64_t second = window_operand(axis, phase, 2 * k_block + 1, side);
      if (count == 2) {
        wgmma_fence();
        wgmma<kOutputs, false, false>(acc, first, of_w, add, M{});
        wgmma<kOutputs, false, false>(acc, second, moved(of_w, 32), true, M{});
        wgmma_commit();
      } else {
        wgmma_fence();
        wgmma<kOutputs, false, false>(acc, first, of_w, add, M{});
        wgmma_commit();
      }
      add = true;
      wgmma_wait<1>();
      if (before >= 0) weights.let_go_of_shared(before, lane, p().cluster);
      before = weights.slot;
      weights.next();
      lag.count(taken, side, lane);
    });
    wgmma_wait<0>();
    wgmma_results(acc);
    weights.let_go_of_shared(before, lane, p().cluster);
    windows.let_go(windows.slot, lane);
    windows.next();
  }

  struct alignas(4) Two {
    M first, second;
  };

  // Through shared memory, so that what a warp stores is one pixel's channels.
  GCN_DEVICE void write(const float (&acc)[kCount], const Unit& u, int side, int warp, int lane) const {
    unsigned char* rows = output_of(side);
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const int row = warp * 16 + c_row(lane, i % 4), column = i / 4 * 8 + c_column(lane, 0);
      store_shared(reinterpret_cast<Two*>(rows + row * kRowBytes + column * 2),
                   Two{from_float<M>(acc[i]), from_float<M>(acc[i + 1])});
    }
    group_barrier(1 + side, kGroupSize);
    constexpr int kPieces = kOutputs / kOctet;
    for (int i = warp * 32 + lane; i < 64 * kPieces; i += kGroupSize) {
      const int row = i / kPieces, c = u.n_tile * kOutputs + i % kPieces * kOctet;
      const int h = u.h + side * 8 + row / kGradPatchW, w = u.w + row % kGradPatchW;
      const uint4 piece = load_shared(reinterpret_cast<const uint4*>(rows + row * kRowBytes + i % kPieces * kPieceBytes));
      if (u.n < p().n && h < p().h && w < p().w && c < p().channels) {
        M* to = static_cast<M*>(p().out) + (u.n * p().stride_n + h * p().stride_h + w * p().stride_w + c);
        *reinterpret_cast<uint4*>(to) = piece;
      }
    }
    group_barrier(1 + side, kGroupSize);  // before the next unit's output takes the place
  }

  GCN_DEVICE void multiply_all(int side) {
    const int warp = int(threadIdx.x) % kGroupSize / 32, lane = int(threadIdx.x) % 32;
    int taken = 0;  // stages of weights
    lag.wait(side);
    for_each_unit([&](const Unit& u) {
      float acc[kCount];
      product(acc, taken, side, lane);
      write(acc, u, side, warp, lane);
    });
    lag.end(taken, side, lane);
  }

  GCN_DEVICE void run() {
    for (int i = threadIdx.x; i < p().zeros_bytes / 16; i += kHopperThreads)
      store_shared(reinterpret_cast<uint4*>(zeros()) + i, make_uint4(0, 0, 0, 0));
    fence_async_proxy();  // wgmma reads them
    if (threadIdx.x == 0) {
      weights.make(2 * kWarps * p().cluster);
      windows.make(2 * kWarps);
      lag.make(kWarps);
      fence_barrier_init();
    }
    wait_for_dependencies();
    cluster_sync();
    const int warpgroup = of_first_lane(int(threadIdx.x) / kGroupSize);
    if (warpgroup == 0) {
      registers_give_up<kRegistersCopying>();
      if (threadIdx.x == 0) copy_all();
      __syncwarp();
    } else {
      registers_take<kRegistersMultiplying>();
      multiply_all(warpgroup - 1);
    }
    cluster_sync();  // a block ends when nobody sends it anything any more
  }
};

template <class M, int kOutputs>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_input_grad_kernel(GCN_PARAMS HopperInputGradArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  unsigned char* aligned = shared + (kSwizzleAlignment - shared_address(shared) % kSwizzleAlignment) % kSwizzleAlignment;
  const HopperInputGrad& p = arguments.p;
  using Block = HopperInputGradBlock<M, kOutputs>;
  Barrier* barriers = reinterpret_cast<Barrier*>(aligned + p.stages * Block::kStageBytes + 2 * p.windows_bytes + p.zeros_bytes +
                                                 2 * 64 * Block::kRowBytes);
  Block{arguments,
        aligned,
        cluster_rank(),
        Ring{barriers, barriers + p.stages, p.stages},
        Ring{barriers + 2 * p.stages, barriers + 2 * p.stages + 2, 2},
        Lag{barriers + 2 * p.stages + 4, p.stages / 2}}
      .run();
}

template <class M>
int launch_hopper_input_grad(int outputs, const HopperInputGrad& p, int blocks, int shared_bytes, Stream s) {
  HopperInputGradArguments arguments{p, {}};
  for (int axis = 0; axis < 2; ++axis) {
    if (const cudaError_t error = encode(p.du[axis], &arguments.du[axis])) return error;
  }
  const Launch how{dim3(unsigned(blocks)), kHopperThreads, size_t(shared_bytes), s.stream, s.dependent};
  return outputs == 256 ? launch_cluster(hopper_input_grad_kernel<M, 256>, how, p.cluster, arguments)
                        : launch_cluster(hopper_input_grad_kernel<M, 128>, how, p.cluster, arguments);
}

}  // namespace gcn::cuda
