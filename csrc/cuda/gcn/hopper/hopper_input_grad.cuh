// Gradient of x for Hopper: the portable kernel's sum (line_conv.cuh) by wgmma, both branches in one accumulator.
//
//   dx[p, c] = sum over branches, taps t, middle channels m of du[p + (t - radius) along the branch's axis, m] w[c, m, k - 1 - t]
//
// Who owns what: blocks are persistent, one to an SM. A unit of work is a patch of pixels and some channels of x. Warpgroup 0
// copies (one thread); warpgroups 1 and 2 multiply, and have up to 128 sums a thread. Which way round depends on what is
// contiguous in dx:
//   channels_last: 16 x 8 pixels and 256 (or 128) channels. D is [64 pixels][all channels]: a warpgroup has eight of the patch's
//   rows, du is A and the weights are B;
//   NCHW: 128 channels of 4 x 64, 8 x 32, 16 x 16 or 8 x 16 pixels. D is [64 channels][all pixels]: the weights are A, half of
//   them to each warpgroup, and du is B, in two or four products. What is written of a channel at a time is whole lines of 128
//   bytes where a patch has 64 pixels in a row, or whole rows of the map: parts of lines keep L2 busy as long as whole ones. A
//   step reads its weights once into registers, 2 KB, and then 8 KB of du, in either warpgroup: 160 clocks of shared memory where
//   the products take 256. From shared memory, each product would read the weights again.
//
// Shared memory, from an address that is a multiple of 1024:
//   ring of stages of weights, each a k-block [channels of x][64 B] as they are packed, K-major in permuted rows of 64 bytes;
//   two sets of windows, one for each branch: of every octet of du's channels the pixels under the patch and its taps,
//   [patch_h + 2 radius][patch_w] or [patch_h][patch_w + 2 radius] pixels of 16 bytes; zeros outside of the map come from the
//   copy engine; zeros, as far as a product's rows of a window reach; barriers.
//
// du, K-major without permutation: a block of eight rows is eight neighbouring pixels of the window, the next eight are those
// below, or of 64 pixels the next in their row. So a tap is a step of the start address. The depth runs in phases over pairs of
// octets: a step of 16 is one tap of both octets, the window of one octet apart; of an octet without a partner it is two taps,
// one tap apart, and behind the last tap stands the block of zeros (a real zero: a weight of zero times NaN would not be one).
//
// Pipeline: weights up to 128 KB ahead; the next windows an octet at a time between the weights, which have to last meanwhile: a
// pixel of 16 bytes takes the copy engine about two clocks, all those of a patch of 4 x 64 pixels 8784 for k = 15 and M = 21, and
// nine k-blocks of 256 x 128 products 4608. Where a patch has several tiles of channels, two of them may follow each other with
// the same windows. One k-block of 256 (or 128) clocks is in flight while the next is issued, or into NCHW one step of two, which
// takes some 45 instructions: descriptors advance by constants, and the steps that are different are apart from the loops.
// Warpgroup 2 starts four k-blocks behind warpgroup 1 and keeps that distance: while one writes its output, the other has the
// tensor cores.
//
// Output: from registers. For channels_last, weights are packed in such an order of channels that a lane has eight neighbouring
// ones of a pixel, and four lanes store 64 bytes in a row. For NCHW, the four lanes that have eight pixels of a channel exchange
// theirs, so that each has all eight of one of four neighbouring groups; what they store is 64 bytes in a row, and the 64 bytes
// beside it follow at once: in all 64 shuffles and 192 selections for the 16 stores of a lane.
//
// Clusters, where they save anything: two blocks with neighbouring patches need the same weights at the same time; each loads
// half of a stage and sends it to both.
//
// Cost of a unit for k = 15, M = 21: 128 x 256 x 736 products are 11776 clocks at 2048 a clock, 86 % of them useful; each step of
// 16 reads 2 x (64 + 256) x 32 bytes of shared memory, 160 clocks of 256. 377 KB of weights come from L2, 27 B a clock at the
// 1700 products a clock that wgmma is taken to reach, or half of it in clusters.
#pragma once

#include <cstring>

#include "../../fragment.cuh"
#include "hopper_block.cuh"
#include "hopper_kernels.h"

namespace gcn::cuda {

struct HopperInputGradArguments {
  HopperInputGrad p;
  TensorMap du[2];
};

template <class M, InputGradTile kTile>
struct HopperInputGradBlock {
  static constexpr InputGradShape kShape = input_grad_shape(kTile);
  static constexpr int kOutputs = kShape.channels, kColumns = kShape.columns(), kProducts = kShape.products();
  static constexpr int kStageBytes = kOutputs * kBlockBytes, kCount = kColumns / 2;
  static constexpr int kPixelBytes = 16;
  static constexpr RoleRegisters kRegisters{kGradProducerRegisters, kGradConsumerRegisters};
  using Sums = float[kProducts][kCount];

  const HopperInputGradArguments& arguments;
  unsigned char* shared;
  const int rank;
  Ring<true> weights;
  WindowSets windows;
  StaggeredStart stagger;

  GCN_DEVICE const HopperInputGrad& p() const { return arguments.p; }
  GCN_DEVICE int cluster() const { return p().cluster; }
  GCN_DEVICE static constexpr bool starts_early() { return false; }
  GCN_DEVICE void make_barriers() const {
    for (int axis = 0; axis < 2; ++axis) prefetch(&arguments.du[axis]);
    weights.make(2);
    windows.make(1);
    stagger.make();
  }

  // --- shared memory
  GCN_DEVICE int plane_bytes(int axis) const { return p().window_h[axis] * p().window_w[axis] * kPixelBytes; }
  GCN_DEVICE unsigned char* window_at(int slot, int axis) const {
    return shared + p().stages * kStageBytes + slot * p().windows_bytes + axis * p().octets[0] * plane_bytes(0);
  }
  GCN_DEVICE unsigned char* zeros() const { return window_at(2, 0); }

  // --- units of work
  struct Unit {
    int n, h, w, n_tile;
    bool last;  // of those that have one copy of the windows together
  };
  // Those that have one copy of the windows together: a patch, and tiles of channels. Blocks of a cluster have neighbouring
  // patches of the same channels; one past the last patch is outside of the map.
  struct Group {
    int n, h, w, from, to;
  };
  GCN_DEVICE uint32_t patches() const { return (p().n * p().patches_h * p().patches_w + p().cluster - 1) / p().cluster; }
  GCN_DEVICE Group group_of(uint32_t i) const {
    const uint32_t in_row = p().patches_w, in_map = p().patches_h * in_row, all = patches();
    const uint32_t tiles = i / all, patch = (i - tiles * all) * p().cluster + rank;
    const uint32_t n = patch / in_map, at = patch - n * in_map, row = at / in_row;
    const int from = int(tiles) * p().together;
    return {int(n), int(row) * kShape.patch_h, int(at - row * in_row) * kShape.patch_w, from,
            min(from + p().together, p().n_tiles)};
  }
  template <class Work>
  GCN_DEVICE void for_each_group(const Work& work) const {
    for_each_unit_of(patches() * ((p().n_tiles + p().together - 1) / p().together), p().cluster, work);
  }
  template <class Work>
  GCN_DEVICE void for_each_unit(const Work& work) const {
    for_each_group([&](uint32_t i, uint32_t) {
      const Group g = group_of(i);
#pragma unroll 1
      for (int n_tile = g.from; n_tile < g.to; ++n_tile) {
        work(Unit{g.n, g.h, g.w, n_tile, n_tile + 1 == g.to});
      }
    });
  }

  // --- the producer warpgroup: one thread

  // The branch with the smaller windows comes first: where a block starts, products wait for no more than these.
  static constexpr int kFirstAxis = kShape.patch_w > kShape.patch_h;

  // A set of windows comes in as many copies as there are octets: this is one of them.
  GCN_DEVICE int copies() const { return p().octets[0] + p().octets[1]; }
  GCN_DEVICE void copy_window(const Group& g, int copy) const {
    const int of_first = p().octets[kFirstAxis], second = copy >= of_first;
    const int axis = kFirstAxis ^ second, octet = copy - second * of_first, plane = plane_bytes(axis);
    Barrier* const full = windows.full(axis);
    if (copy == 0) windows.wait_until_empty();
    if (octet == 0) barrier_expect(full, p().octets[axis] * plane);
    copy_tensor_4d(window_at(windows.slot, axis) + octet * plane, &arguments.du[axis], octet * kOctet,
                   g.w - (axis == 1 ? p().radius[1] : 0), g.h - (axis == 0 ? p().radius[0] : 0), g.n, full);
  }

  GCN_DEVICE void copy_weights(const unsigned char* from) {
    const int blocks = p().cluster, part = blocks == 1 ? kStageBytes : kStageBytes / 2, start = rank * part;
    unsigned char* to = shared + weights.slot * kStageBytes + start;
    weights.start_filling(kStageBytes);
    if (blocks == 1) {
      copy_bulk(to, from, kStageBytes, weights.full + weights.slot);
    } else {
      copy_bulk_multicast(to, from + start, kStageBytes / 2, weights.full + weights.slot, 3);
    }
    weights.next();
  }

  // The next group's windows come between the weights of this one, when as many stages of these have been copied as the ring
  // has: by then the group that had their place is through.
  GCN_DEVICE void copy_group(const Group& g, const Group& next, bool more) {
    int stages = 0;  // of the group
    for (int axis = 0; axis < 2; ++axis) stages += k_blocks_of_map(p().octets[axis], p().radius[axis]);
    stages *= g.to - g.from;
    const int all = more ? copies() : 0, apart = max(1, (stages - p().stages) / copies());
    int copied = 0, left = p().stages;
#pragma unroll 1
    for (int n_tile = g.from; n_tile < g.to; ++n_tile) {
#pragma unroll 1
      for (int i = 0; i < 2; ++i) {
        const int axis = i ^ kFirstAxis, pairs = p().octets[axis] / 2, phases = (p().octets[axis] + 1) / 2;
        const int64_t phase_bytes = int64_t(p().k_blocks[axis]) * kStageBytes;
        const unsigned char* from = static_cast<const unsigned char*>(p().weights[axis]) + n_tile * phases * phase_bytes;
#pragma unroll 1
        for (int phase = 0; phase < phases; ++phase, from += phase_bytes) {
#pragma unroll 1
          for (int k_block = 0; k_block < k_blocks_of_phase(p().radius[axis], phase < pairs); ++k_block) {
            copy_weights(from + int64_t(k_block) * kStageBytes);
            if (copied < all && --left <= 0) copy_window(next, copied++), left = apart;
          }
        }
      }
    }
    while (copied < all) copy_window(next, copied++);
    if (more) windows.next();
  }

  GCN_DEVICE void copy_all() {
    if (threadIdx.x != 0) return;
    bool started = false;
    for_each_group([&](uint32_t i, uint32_t next) {
      const Group g = group_of(i);
      if (!started) {
        for (int copy = 0; copy < copies(); ++copy) copy_window(g, copy);
        windows.next();
        started = true;
      }
      copy_group(g, group_of(next), next != i);
    });
  }

  // --- a consumer warpgroup

  // What a warpgroup remembers between k-blocks.
  struct Flow {
    uint64_t of_w;  // channels_last: the first stage
    // NCHW: what this lane names to ldmatrix for either step, in the first stage; the weights of either step; from a product's
    // pixels to those of the next one, in bytes.
    const unsigned char* own_w[2];
    uint32_t a[2][4], next;
  };

  // A k-block of one or two steps, of which this says where du is.
  template <int kSteps>
  GCN_DEVICE void take(Sums& acc, Flow& flow, int lane, uint64_t first, uint64_t second) {
    weights.wait_until_full();
    if constexpr (kShape.nchw) {
      step<0>(acc, flow, first);
      if constexpr (kSteps == 2) step<1>(acc, flow, second);
      weights.release(weights.slot, lane);  // all of it is in registers
      weights.next();
    } else {
      const uint64_t of_w = moved(flow.of_w, weights.slot * kStageBytes);
      wgmma_fence();
      wgmma<kColumns, false, false>(acc[0], first, of_w, true, M{});
      if constexpr (kSteps == 2) wgmma<kColumns, false, false>(acc[0], second, moved(of_w, 32), true, M{});
      wgmma_commit();
      wgmma_wait<1>();
      weights.release_in_flight(lane);
      weights.next_in_flight();
    }
    stagger.count();
  }

  // A step into NCHW. The one before it is still in flight when its weights are loaded; of the one before that, which had them
  // in the same registers, nothing is.
  template <int kStep>
  GCN_DEVICE void step(Sums& acc, Flow& flow, uint64_t of_du) const {
    wgmma_wait<1>();
    ldmatrix_x4(flow.a[kStep], flow.own_w[kStep] + weights.slot * kStageBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kProducts; ++i) wgmma<kColumns>(acc[i], flow.a[kStep], moved(of_du, i * flow.next), true, M{});
    wgmma_commit();
  }

  // The step before may have been the first of its k-block, as the next one is, and have the same registers.
  GCN_DEVICE static void phase_starts() {
    if constexpr (kShape.nchw) wgmma_wait<0>();
  }

  GCN_DEVICE void product(Sums& acc, Flow& flow, const Unit& u, int side, int lane) {
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      const int axis = i ^ kFirstAxis;
      windows.wait_until_full(axis);
      const uint32_t row = p().window_w[axis] * kPixelBytes, tap = axis == 0 ? row : kPixelBytes, plane = plane_bytes(axis);
      const uint32_t group = 8 * kPixelBytes, next_group = kShape.by_row ? group : row;  // of columns: of eight pixels
      const int radius = p().radius[axis], octets = p().octets[axis];
      uint32_t start = shared_address(window_at(windows.slot, axis)) + (kShape.nchw ? 0 : side * 8 * row);
      flow.next = kShape.by_row ? row : group;
#pragma unroll 1
      for (int pair = 0; pair < octets / 2; ++pair, start += 2 * plane) {
        phase_starts();
        uint64_t at = operand(start, plane, next_group, Swizzle::kNone);
#pragma unroll 1
        for (int i = 0; i < radius; ++i, at = moved(at, 2 * tap)) take<2>(acc, flow, lane, at, moved(at, tap));
        take<1>(acc, flow, lane, at, at);
      }
      if (octets % 2) {
        phase_starts();
        uint64_t at = operand(start, tap, next_group, Swizzle::kNone);
#pragma unroll 1
        for (int i = 0; i < radius / 2; ++i, at = moved(at, 4 * tap)) take<2>(acc, flow, lane, at, moved(at, 2 * tap));
        const uint32_t last = start + 2 * radius * tap;
        const uint64_t with_zeros = operand(last, shared_address(zeros()) - last, next_group, Swizzle::kNone);
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
    weights.release_in_flight(lane);
    if (!u.last) return;
    windows.release(lane);
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

  // The sums that a lane has of group `group` of eight pixels, the patch's groups numbered row by row.
  GCN_DEVICE static uint32_t two_of(const Sums& acc, int group, int half) {
    constexpr int kAcross = kShape.patch_w / 8;
    const int row = group / kAcross, column = group % kAcross;
    const int product = kShape.by_row ? row : column, at = 4 * (kShape.by_row ? column : row) + 2 * half;
    return two(acc[product][at], acc[product][at + 1]);
  }

  // Row 16 warp + lane / 4 (+ 8) of D is a channel of x; a lane has two pixels of each group of eight. When four lanes have
  // turned what they have of four groups, each has all of one. Groups that are neighbours in memory are stored one after the
  // other.
  GCN_DEVICE void write_rows(const Sums& acc, const Unit& u, int side, int warp, int lane) const {
    constexpr int kAcross = kShape.patch_w / 8, kGroups = kShape.pixels() / 8;
    const int first_channel = u.n_tile * kOutputs + side * 64 + warp * 16 + lane / 4, own = lane % 4;
    const int h = u.h + own / kAcross, w = u.w + own % kAcross * 8;
    const int rows = u.n < p().n ? p().h - h : 0,
              columns = p().w - w;  // that are left
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int channel = first_channel + 8 * half, left = channel < p().channels ? rows : 0;
      M* const to = static_cast<M*>(p().out) + (u.n * p().stride_n + channel * p().stride_c + h * p().stride_h + w);
#pragma unroll
      for (int group = 0; group < kGroups; group += 8) {
        uint32_t v[2][4];
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i / 4][i % 4] = two_of(acc, group + i, half);
        turn(v[0], lane);
        turn(v[1], lane);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = (group + 4 * i) / kAcross, column = (group + 4 * i) % kAcross * 8;
          if (row >= left || column >= columns) continue;
          *reinterpret_cast<uint4*>(to + row * p().stride_h + column) = make_uint4(v[i][0], v[i][1], v[i][2], v[i][3]);
        }
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
    const int row = side * 64 + warp * 16 + a_row(lane);
    const uint64_t of_w = operand(shared_address(shared), 0, 8 * kBlockBytes, Swizzle::k64);
    const auto own = [&](int step) { return shared + swizzle_rows(row, 2 * step + a_half(lane)) * kPieceBytes; };
    Flow flow{of_w, {own(0), own(1)}, {}, 0};
    stagger.start(side, lane);
    for_each_unit([&](const Unit& u) {
      Sums acc = {};
      product(acc, flow, u, side, lane);
      write(acc, u, side, warp, lane);
    });
    stagger.end();
  }
};

template <class M, InputGradTile kTile>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_input_grad_kernel(GCN_PARAMS HopperInputGradArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  unsigned char* aligned = swizzle_aligned(shared);
  const HopperInputGrad& p = arguments.p;
  using Block = HopperInputGradBlock<M, kTile>;
  Barrier* barriers = reinterpret_cast<Barrier*>(aligned + p.stages * Block::kStageBytes + 2 * p.windows_bytes + p.zeros_bytes);
  Block block{arguments,
              aligned,
              cluster_rank(),
              {barriers, barriers + p.stages, p.stages, p.cluster},
              {barriers + 2 * p.stages, barriers + 2 * p.stages + 4},
              {barriers + 2 * p.stages + 6, min(p.stages / 2, kGradStaggerMost)}};
  fill_with_zeros(block.zeros(), p.zeros_bytes);
  run_block(block);
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
    case InputGradTile::kPixels4x64:
      return launch_cluster(hopper_input_grad_kernel<M, InputGradTile::kPixels4x64>, how, p.cluster, arguments);
    case InputGradTile::kPixels8x32:
      return launch_cluster(hopper_input_grad_kernel<M, InputGradTile::kPixels8x32>, how, p.cluster, arguments);
    case InputGradTile::kPixels16x16:
      return launch_cluster(hopper_input_grad_kernel<M, InputGradTile::kPixels16x16>, how, p.cluster, arguments);
    case InputGradTile::kPixels8x16:
      return launch_cluster(hopper_input_grad_kernel<M, InputGradTile::kPixels8x16>, how, p.cluster, arguments);
  }
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
