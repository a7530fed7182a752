// Gradient of x for Hopper: the portable kernel's sum (line_conv.cuh) by wgmma, both branches in one accumulator.
//
//   dx[p, c] = sum over branches, taps t, middle channels m of du[p + (t - radius) along the branch's axis, m] w[c, m, k - 1 - t]
//
// Who owns what: blocks are persistent, one to an SM. A unit of work is a patch of pixels and some channels of x. Warpgroup 0
// copies (one thread); warpgroups 1 and 2 multiply, and have up to 128 sums a thread. Which way round depends on what is
// contiguous in dx:
//   channels_last: 16 x 8 pixels and 256 (or 128) channels. D is [64 pixels][all channels]: a warpgroup has eight of the patch's
//   rows, du is A and the weights are B;
//   NCHW: 16 (or 8) rows of 16 pixels and 128 channels. D is [64 channels][all pixels]: the weights are A, half of them to each
//   warpgroup, and du is B, in two products, one for the left eight pixels of the rows and one for the right ones. For as many
//   sums, 234 KB come from L2 instead of 405 KB, and a step reads shared memory for 192 clocks instead of 160.
//
// Shared memory, from an address that is a multiple of 1024:
//   ring of stages of weights, each a k-block [channels of x][64 B] as they are packed, K-major in permuted rows of 64 bytes;
//   two sets of windows, one for each branch: of every octet of du's channels the pixels under the patch and its taps,
//   [patch_h + 2 radius][patch_w] or [patch_h][patch_w + 2 radius] pixels of 16 bytes; zeros outside of the map come from the
//   copy engine; zeros, as far as a product's rows of a window reach; barriers.
//
// du, K-major without permutation: a block of eight rows is eight neighbouring pixels of the window, the next eight are the
// window's next row. So a tap is a step of the start address. The depth runs in phases over pairs of octets: a step of 16 is one
// tap of both octets, the window of one octet apart; of an octet without a partner it is two taps, one tap apart, and behind the
// last tap stands the block of zeros (a real zero: a weight of zero times NaN would not be one).
//
// Pipeline: weights up to 128 KB ahead; windows behind the last weights of the unit before, which have to last until the windows
// have come: a pixel of 16 bytes takes the copy engine about two clocks, those of a patch of 16 x 16 pixels 5760 for k = 15 and
// M = 21, and eight k-blocks of 256 x 128 products take 4096. Where a patch has several tiles of channels, two of them may follow
// each other with the same windows. One k-block of 256 (or 128) clocks is in flight while the next is issued, which takes some 45
// instructions: descriptors advance by constants, and the steps that are different are apart from the loops. Warpgroup 2 starts
// four k-blocks behind warpgroup 1 and keeps that distance: while one writes its output, the other has the tensor cores.
//
// Output: from registers. For channels_last, weights are packed in such an order of channels that a lane has eight neighbouring
// ones of a pixel, and four lanes store 64 bytes in a row. For NCHW, the four lanes that have eight pixels of a channel exchange
// theirs, so that each has all eight of one half of one row, and two lanes store 32 bytes in a row, which is a sector: in all 64
// shuffles and 192 selections for the 16 stores of a lane.
//
// Clusters, where they save anything: two blocks with neighbouring patches need the same weights at the same time; each loads
// half of a stage and sends it to both.
//
// Cost of a unit for k = 15, M = 21: 128 x 256 x 736 products are 11776 clocks at 2048 a clock, 86 % of them useful; each step of
// 16 reads 2 x (64 + 256) x 32 bytes of shared memory, 160 clocks of 256. 377 KB of weights come from L2, 27 B a clock at the
// 1700 products a clock that wgmma is taken to reach, or half of it in clusters.
#pragma once

#include <cstring>

#include "../fragment.cuh"
#include "hopper_kernels.h"
#include "hopper_ring.cuh"

namespace gcn::cuda {

struct HopperInputGradArguments {
  HopperInputGrad p;
  TensorMap du[2];
};

template <class M, InputGradTile kTile>
struct HopperInputGradBlock {
  static constexpr InputGradShape kShape = input_grad_shape(kTile);
  static constexpr int kOutputs = kShape.channels, kColumns = kShape.columns(), kProducts = kShape.products();
  static constexpr int kStageBytes = kOutputs * kBlockBytes, kWarps = kGroupSize / 32, kCount = kColumns / 2;
  static constexpr int kPixelBytes = 16;
  using Sums = float[kProducts][kCount];

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
    bool first, last;  // of those that have one copy of the windows together
  };
  // Blocks of a cluster have neighbouring patches of the same channels; one past the last patch is outside of the map.
  template <class Work>
  GCN_DEVICE void for_each_unit(const Work& work) const {
    const uint32_t in_row = p().patches_w, in_map = p().patches_h * in_row, blocks = p().cluster;
    const uint32_t groups = (p().n * in_map + blocks - 1) / blocks,
                   all = groups * ((p().n_tiles + p().together - 1) / p().together);
    const uint32_t first = blocks == 1 ? blockIdx.x : blockIdx.x / 2, step = blocks == 1 ? gridDim.x : gridDim.x / 2;
    for (uint32_t i = first; i < all; i += step) {
      const uint32_t tiles = i / groups, patch = (i - tiles * groups) * blocks + rank;
      const uint32_t n = patch / in_map, at = patch - n * in_map, row = at / in_row;
      const int from = int(tiles) * p().together, to = min(from + p().together, p().n_tiles);
#pragma unroll 1
      for (int n_tile = from; n_tile < to; ++n_tile) {
        work(Unit{int(n), int(row) * kShape.patch_h, int(at - row * in_row) * kShape.patch_w, n_tile, n_tile == from,
                  n_tile + 1 == to});
      }
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
      if (u.first) copy_windows(u);
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
    uint64_t of_w;       // the first stage, or the warpgroup's rows of it
  };

  GCN_DEVICE static void step(Sums& acc, uint64_t of_w, uint64_t of_du) {
    if constexpr (kShape.nchw) {
#pragma unroll
      for (int i = 0; i < kProducts; ++i) {
        wgmma<kColumns, false, false>(acc[i], of_w, moved(of_du, i * 8 * kPixelBytes), true, M{});
      }
    } else {
      wgmma<kColumns, false, false>(acc[0], of_du, of_w, true, M{});
    }
  }

  // A k-block of one or two steps, of which this says where du is.
  template <int kSteps>
  GCN_DEVICE void take(Sums& acc, Flow& flow, int lane, uint64_t first, uint64_t second) {
    const uint64_t of_w = moved(flow.of_w, weights.slot * kStageBytes);
    weights.wait_until_full();
    wgmma_fence();
    step(acc, of_w, first);
    if constexpr (kSteps == 2) step(acc, moved(of_w, 32), second);
    wgmma_commit();
    wgmma_wait<1>();
    weights.let_go_of_shared(flow.before, lane, flow.blocks);
    flow.before = weights.slot, flow.blocks = p().cluster;
    weights.next();
    lag.count(flow.taken, 0, 0);
  }

  GCN_DEVICE void product(Sums& acc, Flow& flow, const Unit& u, int side, int lane) {
    flow.blocks = 0;
    windows.wait_until_full();
#pragma unroll 1
    for (int axis = 0; axis < 2; ++axis) {
      const uint32_t row = p().window_w[axis] * kPixelBytes, tap = axis == 0 ? row : kPixelBytes, plane = plane_bytes(axis);
      const int radius = p().radius[axis], octets = p().octets[axis];
      uint32_t start = shared_address(window_at(windows.slot, axis)) + (kShape.nchw ? 0 : side * 8 * row);
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
#pragma unroll
    for (int i = 0; i < kProducts; ++i) wgmma_results(acc[i]);
    weights.let_go_of_shared(flow.before, lane, p().cluster);
    if (!u.last) return;
    windows.let_go(windows.slot, lane);
    windows.next();
  }

  struct alignas(16) Eight {
    M of[kOctet];
  };

  GCN_DEVICE void write(const Sums& acc, const Unit& u, int side, int warp, int lane) const {
    if constexpr (kShape.nchw) {
      write_rows(acc, u, side, warp, lane);
    } else {
      write_channels(acc[0], u, side, warp, lane);
    }
  }

  GCN_DEVICE static uint32_t two(float a, float b) {
    const M both[2] = {from_float<M>(a), from_float<M>(b)};
    uint32_t bits;
    memcpy(&bits, both, sizeof bits);
    return bits;
  }

  // Of the four lanes of a row of D, the q-th gets what all four have in v[q].
  GCN_DEVICE static void turn(uint32_t (&v)[4], int lane) {
#pragma unroll
    for (int apart = 1; apart < 4; apart *= 2) {
      const bool upper = lane & apart;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i & apart) continue;
        const uint32_t other = shuffle_xor(upper ? v[i] : v[i + apart], apart);
        v[i] = upper ? other : v[i];
        v[i + apart] = upper ? v[i + apart] : other;
      }
    }
  }

  // Row 16 warp + lane / 4 (+ 8) of D is a channel of x; a lane has two of eight neighbouring pixels of it. When four lanes have
  // turned what they have of two halves of two rows, each has eight pixels of one of them.
  GCN_DEVICE void write_rows(const Sums& acc, const Unit& u, int side, int warp, int lane) const {
    const int first_channel = u.n_tile * kOutputs + side * 64 + warp * 16 + lane / 4;
    const int h = u.h + lane / 2 % 2, w = u.w + lane % 2 * 8;
    const int rows = u.n < p().n && w < p().w ? p().h - h : 0;  // that are left
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int channel = first_channel + 8 * half, left = channel < p().channels ? rows : 0;
      M* to = static_cast<M*>(p().out) + (u.n * p().stride_n + channel * p().stride_c + h * p().stride_h + w);
#pragma unroll
      for (int row = 0; row < kShape.patch_h; row += 2, to += 2 * p().stride_h) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = 4 * (row + i / 2) + 2 * half;
          v[i] = two(acc[i % 2][at], acc[i % 2][at + 1]);
        }
        turn(v, lane);
        if (row < left) *reinterpret_cast<uint4*>(to) = make_uint4(v[0], v[1], v[2], v[3]);
      }
    }
  }

  // Weights are packed so that a lane has eight channels of a pixel in a row, and what four lanes store is 64 bytes in a row.
  GCN_DEVICE void write_channels(const float (&acc)[kCount], const Unit& u, int side, int warp, int lane) const {
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
    const int first_row = kShape.nchw ? side * 64 : 0;
    const uint64_t of_w = operand(shared_address(shared + first_row * kBlockBytes), 0, 8 * kBlockBytes, Swizzle::k64);
    Flow flow{0, 0, side == 0 && lane == 0 ? 0 : kNever, of_w};
    lag.wait(side);
    for_each_unit([&](const Unit& u) {
      Sums acc = {};
      product(acc, flow, u, side, lane);
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

template <class M, InputGradTile kTile>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_input_grad_kernel(GCN_PARAMS HopperInputGradArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  unsigned char* aligned = shared + (kSwizzleAlignment - shared_address(shared) % kSwizzleAlignment) % kSwizzleAlignment;
  const HopperInputGrad& p = arguments.p;
  using Block = HopperInputGradBlock<M, kTile>;
  Barrier* barriers = reinterpret_cast<Barrier*>(aligned + p.stages * Block::kStageBytes + 2 * p.windows_bytes + p.zeros_bytes);
  Block{arguments,
        aligned,
        cluster_rank(),
        Ring{barriers, barriers + p.stages, p.stages},
        Ring{barriers + 2 * p.stages, barriers + 2 * p.stages + 2, 2},
        Lag{barriers + 2 * p.stages + 4, min(p.stages / 2, kGradLagMost)}}
      .run();
}

template <class M>
int launch_hopper_input_grad(InputGradTile tile, const HopperInputGrad& p, int blocks, int shared_bytes, Stream s) {
  HopperInputGradArguments arguments{p, {}};
  for (int axis = 0; axis < 2; ++axis) {
    if (const cudaError_t error = encode(p.du[axis], &arguments.du[axis])) return error;
  }
  const Launch how{dim3(unsigned(blocks)), kHopperThreads, size_t(shared_bytes), s.stream, s.dependent};
  switch (tile) {
    case InputGradTile::kChannels256:
      return launch_cluster(hopper_input_grad_kernel<M, InputGradTile::kChannels256>, how, p.cluster, arguments);
    case InputGradTile::kChannels128:
      return launch_cluster(hopper_input_grad_kernel<M, InputGradTile::kChannels128>, how, p.cluster, arguments);
    case InputGradTile::kRows16:
      return launch_cluster(hopper_input_grad_kernel<M, InputGradTile::kRows16>, how, p.cluster, arguments);
    case InputGradTile::kRows8:
      return launch_cluster(hopper_input_grad_kernel<M, InputGradTile::kRows8>, how, p.cluster, arguments);
  }
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
