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
//   zeros, as far as eight rows of a window reach; barriers.
//
// A, K-major without permutation: a block of eight rows is eight neighbouring pixels of the window, the next eight are the
// window's next row. So a tap is a step of the start address. The depth runs in phases over pairs of octets: a step of 16 is one
// tap of both octets, the window of one octet apart; of an octet without a partner it is two taps, one tap apart, and behind the
// last tap stands the block of zeros (a real zero: a weight of zero times NaN would not be one).
//
// Pipeline: weights up to eight stages ahead, windows a unit ahead. One k-block of 256 (or 128) clocks is in flight while the
// next is issued, which takes some 45 instructions: descriptors advance by constants, and the steps that are different are apart
// from the loops. Warpgroup 2 starts half a ring of weights behind warpgroup 1 and keeps that distance: while one writes its
// output, the other has the tensor cores.
//
// Output: from registers. Weights are packed in such an order of channels that a lane has eight neighbouring ones of a pixel, and
// four lanes store 64 bytes in a row.
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
  static constexpr int kPixelBytes = 16;

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

  // --- units of work
  struct Unit {
    int n, h, w, n_tile;
  };
  // Blocks of a cluster have neighbouring patches of the same channels; one past the last patch is outside of the map.
  template <class Work>
  GCN_DEVICE void for_each_unit(const Work& work) const {
    const uint32_t in_row = p().patches_w, in_map = p().patches_h * in_row, blocks = p().cluster;
    const uint32_t groups = (p().n * in_map + blocks - 1) / blocks, all = groups * p().n_tiles;
    const uint32_t first = blocks == 1 ? blockIdx.x : blockIdx.x / 2, step = blocks == 1 ? gridDim.x : gridDim.x / 2;
    for (uint32_t i = first; i < all; i += step) {
      const uint32_t n_tile = i / groups, patch = (i - n_tile * groups) * blocks + rank;
      const uint32_t n = patch / in_map, at = patch - n * in_map, row = at / in_row;
      work(Unit{int(n), int(row) * kGradPatchH, int(at - row * in_row) * kGradPatchW, int(n_tile)});
    }
  }

  // Steps of 16 of a branch with 2 radius + 1 taps: of a pair of octets one for each tap, of a last octet without a partner one
  // for two taps. In k-blocks of two steps, either's last one may be half full.
  GCN_DEVICE int k_blocks(int axis, bool pair) const { return pair ? p().radius[axis] + 1 : p().radius[axis] / 2 + 1; }

  // --- the warpgroup that copies: one thread

  GCN_DEVICE void copy_windows(const Unit& u) {
    windows.start_filling(p().windows_bytes);
    unsigned char* to = window_at(windows.slot, 0);
#pragma unroll 1
    for (int axis = 0; axis < 2; ++axis) {
      const int from_h = u.h - (axis == 0 ? p().radius[0] : 0), from_w = u.w - (axis == 1 ? p().radius[1] : 0);
      const int plane = plane_bytes(axis), octets = p().octets[axis];
#pragma unroll 1
      for (int o = 0; o < octets; ++o, to += plane) {
        copy_tensor_4d(to, &arguments.du[axis], o * kOctet, from_w, from_h, u.n, windows.full + windows.slot);
      }
    }
    windows.next();
  }

  GCN_DEVICE void copy_weights(const unsigned char* from, int count) {
    const int blocks = p().cluster, part = blocks == 1 ? kStageBytes : kStageBytes / 2, start = rank * part;
    from += start;
#pragma unroll 1
    for (int i = 0; i < count; ++i, from += kStageBytes, weights.next()) {
      unsigned char* to = shared + weights.slot * kStageBytes + start;
      weights.start_filling(kStageBytes);
      if (blocks == 1) {
        copy_bulk(to, from, kStageBytes, weights.full + weights.slot);
      } else {
        copy_bulk_multicast(to, from, kStageBytes / 2, weights.full + weights.slot, 3);
      }
    }
  }

  GCN_DEVICE void copy_all() {
    for_each_unit([&](const Unit& u) {
      copy_windows(u);
#pragma unroll 1
      for (int axis = 0; axis < 2; ++axis) {
        const int pairs = p().octets[axis] / 2, phases = (p().octets[axis] + 1) / 2;
        const int64_t phase_bytes = int64_t(p().k_blocks[axis]) * kStageBytes;
        const unsigned char* from = static_cast<const unsigned char*>(p().weights[axis]) + u.n_tile * phases * phase_bytes;
#pragma unroll 1
        for (int phase = 0; phase < phases; ++phase, from += phase_bytes) copy_weights(from, k_blocks(axis, phase < pairs));
      }
    });
  }

  // --- a warpgroup that multiplies

  // What a warpgroup remembers between k-blocks.
  struct Flow {
    int before, blocks;  // the slot whose products are in flight, and how many blocks to tell of it when they are through
    int taken;           // stages of weights, as the lag counts them: of the thread that tells
    uint64_t of_w;       // the first stage
  };

  // A k-block of one or two steps, of which this says where du is.
  template <int kSteps>
  GCN_DEVICE void take(float (&acc)[kCount], Flow& flow, int lane, uint64_t first, uint64_t second) {
    const uint64_t of_w = moved(flow.of_w, weights.slot * kStageBytes);
    weights.wait_until_full();
    wgmma_fence();
    wgmma<kOutputs, false, false>(acc, first, of_w, true, M{});
    if constexpr (kSteps == 2) wgmma<kOutputs, false, false>(acc, second, moved(of_w, 32), true, M{});
    wgmma_commit();
    wgmma_wait<1>();
    weights.let_go_of_shared(flow.before, lane, flow.blocks);
    flow.before = weights.slot, flow.blocks = p().cluster;
    weights.next();
    lag.count(flow.taken, 0, 0);
  }

  GCN_DEVICE void product(float (&acc)[kCount], Flow& flow, int side, int lane) {
    flow.blocks = 0;
    windows.wait_until_full();
#pragma unroll 1
    for (int axis = 0; axis < 2; ++axis) {
      const uint32_t row = p().window_w[axis] * kPixelBytes, tap = axis == 0 ? row : kPixelBytes, plane = plane_bytes(axis);
      const int radius = p().radius[axis], octets = p().octets[axis];
      uint32_t start = shared_address(window_at(windows.slot, axis)) + side * 8 * row;
#pragma unroll 1
      for (int pair = 0; pair < octets / 2; ++pair, start += 2 * plane) {
        uint64_t at = operand(start, plane, row, Swizzle::kNone);
#pragma unroll 1
        for (int i = 0; i < radius; ++i, at = moved(at, 2 * tap)) take<2>(acc, flow, lane, at, moved(at, tap));
        take<1>(acc, flow, lane, at, at);
      }
      if (octets % 2) {
        uint64_t at = operand(start, tap, row, Swizzle::kNone);
#pragma unroll 1
        for (int i = 0; i < radius / 2; ++i, at = moved(at, 4 * tap)) take<2>(acc, flow, lane, at, moved(at, 2 * tap));
        const uint32_t last = start + 2 * radius * tap;
        const uint64_t with_zeros = operand(last, shared_address(zeros()) - last, row, Swizzle::kNone);
        if (radius % 2) {
          take<2>(acc, flow, lane, at, with_zeros);
        } else {
          take<1>(acc, flow, lane, with_zeros, with_zeros);
        }
      }
    }
    wgmma_wait<0>();
    wgmma_results(acc);
    weights.let_go_of_shared(flow.before, lane, p().cluster);
    windows.let_go(windows.slot, lane);
    windows.next();
  }

  struct alignas(16) Eight {
    M of[kOctet];
  };

  // Weights are packed so that a lane has eight channels of a pixel in a row, and what four lanes store is 64 bytes in a row.
  GCN_DEVICE void write(const float (&acc)[kCount], const Unit& u, int side, int warp, int lane) const {
    constexpr int kTogether = 4 * kOctet;
    const int channel = u.n_tile * kOutputs + lane % 4 * kOctet, w = u.w + lane / 4;
    const int h = u.h + side * 8 + warp * 2;
    const int channels = u.n < p().n && w < p().w ? p().channels - channel : 0;
    M* const first = static_cast<M*>(p().out) + (u.n * p().stride_n + h * p().stride_h + w * p().stride_w + channel);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      M* const to = first + row * p().stride_h;
      const int left = h + row < p().h ? channels : 0;
#pragma unroll
      for (int i = 0; i < kOutputs / kTogether; ++i) {
        Eight eight;
#pragma unroll
        for (int k = 0; k < kOctet; ++k) eight.of[k] = from_float<M>(acc[16 * i + k / 2 * 4 + 2 * row + k % 2]);
        if (i * kTogether < left) *reinterpret_cast<Eight*>(to + i * kTogether) = eight;
      }
    }
  }

  GCN_DEVICE void multiply_all(int side) {
    const int warp = of_first_lane(int(threadIdx.x) % kGroupSize / 32), lane = int(threadIdx.x) % 32;
    constexpr int kNever = -(1 << 30);
    const uint64_t of_w = operand(shared_address(shared), 0, 8 * kBlockBytes, Swizzle::k64);
    Flow flow{0, 0, side == 0 && lane == 0 ? 0 : kNever, of_w};
    lag.wait(side);
    for_each_unit([&](const Unit& u) {
      float acc[kCount] = {};
      product(acc, flow, side, lane);
      write(acc, u, side, warp, lane);
    });
    lag.end(flow.taken, side, lane);
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
  Barrier* barriers = reinterpret_cast<Barrier*>(aligned + p.stages * Block::kStageBytes + 2 * p.windows_bytes + p.zeros_bytes);
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
