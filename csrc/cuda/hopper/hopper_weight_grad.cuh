// First weights' gradients for Hopper: the portable kernel's sums (weight_grad.cuh) in the same workspace, by wgmma on what the
// copy engine brings.
//
//   dW[c, (b, t)] = sum_p x[p, c] du[p + (t - radius) along the branch's axis, b]
//
// Who owns what: blocks are persistent, one to an SM. A unit of work is 128 channels of x, 15 taps of three octets of du's
// channels, and a split of the pixels. Warpgroup 0 copies (one thread); warpgroups 1 and 2 have 64 channels of x each and all 360
// columns: three wgmma of 64 x 120 in 180 registers a thread.
//
// A stage of the ring is a patch of 8 x 8 pixels: x [2][64 pixels][64 channels], 16 KB in rows of 128 bytes, and of each octet
// the window of du under the patch and its taps, [22 x 8 or 8 x 22 pixels][8 channels], 16 bytes a pixel. Both operands are
// MN-major.
//   A  rows of a swizzled block are pixels: 1024 bytes to the next eight, which are the next row of the patch.
//   B  a block of eight depths is eight neighbouring pixels of the window; the next eight depths are the window's next row; the
//      next eight columns are the next tap, one pixel (or one row of the window) further. So the shifted windows of all taps are
//      one operand that overlaps itself, and nothing is copied twice.
// Outside of the map the copy engine writes zeros. Taps and octets past the last are computed and never written.
//
// Pipeline: up to eight stages; one product group stays in flight while the next is issued.
//
// Cost of a patch, 16-bit: 128 x 360 x 64 products are 1440 clocks at 2048 a clock; wgmma reads 2 x 12 x (64 + 120) x 32 bytes of
// shared memory, 141 KB or 1104 clocks; 24832 bytes come from L2. 15 taps of 24 channels are 87.5 % useful at M = 21.
#pragma once

#include "../weight_grad.cuh"
#include "hopper_kernels.h"
#include "hopper_ring.cuh"

namespace gcn::cuda {

struct HopperWeightGradArguments {
  HopperWeightGrad p;
  TensorMap x, du[2];
};

template <class M>
struct HopperWeightGradBlock {
  static constexpr int kColumns = 8 * kStripTaps, kHalf = kColumns / 2;
  static constexpr int kWarps = kGroupSize / 32, kSteps = kPatchSide * kPatchSide / 16;
  static constexpr int kXBytes = kPatchSide * kPatchSide * 128, kPixelBytes = 16;

  const HopperWeightGradArguments& arguments;
  unsigned char* stages;
  Ring ring;

  GCN_DEVICE const WeightGradParams& p() const { return arguments.p.grad; }

  struct Unit {
    int axis, first_octet, first_tap, first_channel, split;
    int64_t first, last;  // patches
  };
  GCN_DEVICE int strips(int branch) const {
    const WeightGradBranch& b = p().branch[branch];
    return b.blocks == 0 ? 0 : (b.channels / kOctet + kStripOctets - 1) / kStripOctets * ((b.taps + kStripTaps - 1) / kStripTaps);
  }
  GCN_DEVICE int units() const { return (strips(0) + strips(1)) * channel_tiles() * p().splits; }
  GCN_DEVICE int channel_tiles() const { return (p().channels + 2 * kSideChannels - 1) / (2 * kSideChannels); }
  GCN_DEVICE Unit unit_at(int i) const {
    const int which = i % (strips(0) + strips(1)), branch = which >= strips(0), strip = which - branch * strips(0);
    i /= strips(0) + strips(1);
    const int tile = i % channel_tiles(), split = i / channel_tiles();
    const WeightGradBranch& b = p().branch[branch];
    const int tap_strips = (b.taps + kStripTaps - 1) / kStripTaps;
    const int64_t patches = int64_t(p().n) * p().patches_h * p().patches_w;
    return {branch, strip / tap_strips * kStripOctets, strip % tap_strips * kStripTaps,   tile * 2 * kSideChannels,
            split,  patches * split / p().splits,      patches * (split + 1) / p().splits};
  }
  GCN_DEVICE int octets(const Unit& u) const { return min(kStripOctets, p().branch[u.axis].channels / kOctet - u.first_octet); }
  GCN_DEVICE unsigned char* stage() const { return stages + ring.slot * kWeightGradStageBytes; }

  // --- the warpgroup that copies: one thread

  GCN_DEVICE void copy_patch(const Unit& u, int64_t patch) const {
    const int in_map = int(patch % (p().patches_h * p().patches_w)), n = int(patch / (p().patches_h * p().patches_w));
    const int h = in_map / p().patches_w * kPatchSide, w = in_map % p().patches_w * kPatchSide;
    ring.start_filling(2 * kXBytes + octets(u) * kWindowBytes);
    for (int side = 0; side < 2; ++side) {
      copy_tensor_4d(stage() + side * kXBytes, &arguments.x, u.first_channel + side * kSideChannels, w, h, n,
                     ring.full + ring.slot);
    }
    const WeightGradBranch& b = p().branch[u.axis];
    const int from_h = b.axis == 0 ? h - b.radius + u.first_tap : h, from_w = b.axis == 1 ? w - b.radius + u.first_tap : w;
    for (int o = 0; o < octets(u); ++o) {
      copy_tensor_4d(stage() + 2 * kXBytes + o * kWindowBytes, &arguments.du[u.axis], (u.first_octet + o) * kOctet, from_w,
                     from_h, n, ring.full + ring.slot);
    }
  }

  GCN_DEVICE void copy_all() {
    for (int i = int(blockIdx.x); i < units(); i += int(gridDim.x)) {
      const Unit u = unit_at(i);
      for (int64_t patch = u.first; patch < u.last; ++patch, ring.next()) copy_patch(u, patch);
    }
  }

  // --- a warpgroup that multiplies

  GCN_DEVICE void multiply(float (&acc)[kStripOctets][kHalf], int axis, int side, bool add) const {
    const bool along_rows = p().branch[axis].axis == 1;
    const uint32_t row_bytes = (along_rows ? kWindowLong : kPatchSide) * kPixelBytes;
    const uint32_t x = shared_address(stage() + side * kXBytes), du = shared_address(stage() + 2 * kXBytes);
    const uint64_t of_x = operand(x, 0, 8 * 128, Swizzle::k128);
    const uint64_t of_du = operand(du, row_bytes, along_rows ? kPixelBytes : row_bytes, Swizzle::kNone);
#pragma unroll
    for (uint32_t step = 0; step < kSteps; ++step) {
#pragma unroll
      for (uint32_t o = 0; o < kStripOctets; ++o) {
        wgmma<kColumns, true, true>(acc[o], moved(of_x, step * 2 * 8 * 128),
                                    moved(of_du, o * kWindowBytes + step * 2 * row_bytes), add || step > 0, M{});
      }
    }
  }

  GCN_DEVICE void write(const float (&acc)[kStripOctets][kHalf], const Unit& u, int side, int warp, int lane) const {
    const WeightGradBranch& b = p().branch[u.axis];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int channel = u.first_channel + side * kSideChannels + warp * 16 + c_row(lane, 2 * half);
      const int64_t row = (int64_t(u.split) * p().channels + channel) * p().blocks_per_row + b.first_block;
#pragma unroll
      for (int o = 0; o < kStripOctets; ++o) {
#pragma unroll
        for (int t = 0; t < kStripTaps; ++t) {
          const int tap = u.first_tap + t;
          if (channel >= p().channels || o >= octets(u) || tap >= b.taps) continue;
          const int64_t block = row + (u.first_octet + o) * b.taps + tap;
          *reinterpret_cast<float2*>(p().partial + block * kOctet + c_column(lane, 0)) =
              make_float2(acc[o][4 * t + 2 * half], acc[o][4 * t + 2 * half + 1]);
        }
      }
    }
  }

  GCN_DEVICE void multiply_all(int side) {
    const int thread = int(threadIdx.x) % kGroupSize, lane = thread % 32;
    for (int i = int(blockIdx.x); i < units(); i += int(gridDim.x)) {
      const Unit u = unit_at(i);
      float acc[kStripOctets][kHalf];
      int before = -1;  // the slot whose products are in flight
      for (int64_t patch = u.first; patch < u.last; ++patch) {
        ring.wait_until_full();
        wgmma_fence();
        multiply(acc, u.axis, side, patch > u.first);
        wgmma_commit();
        wgmma_wait<1>();
        if (before >= 0) ring.let_go(before, lane);
        before = ring.slot;
        ring.next();
      }
      wgmma_wait<0>();
#pragma unroll
      for (int o = 0; o < kStripOctets; ++o) wgmma_results(acc[o]);
      ring.let_go(before, lane);
      write(acc, u, side, thread / 32, lane);
    }
  }

  GCN_DEVICE void run() {
    if (threadIdx.x == 0) {
      ring.make(2 * kWarps);
      fence_barrier_init();
    }
    wait_for_dependencies();
    __syncthreads();
    const int warpgroup = of_first_lane(int(threadIdx.x) / kGroupSize);
    if (warpgroup == 0) {
      registers_give_up<kRegistersCopying>();
      if (threadIdx.x == 0) copy_all();
    } else {
      registers_take<kRegistersMultiplying>();
      multiply_all(warpgroup - 1);
    }
  }
};

template <class M>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_weight_grad_kernel(GCN_PARAMS HopperWeightGradArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  unsigned char* stages = shared + (kSwizzleAlignment - shared_address(shared) % kSwizzleAlignment) % kSwizzleAlignment;
  const int count = arguments.p.stages;
  Barrier* barriers = reinterpret_cast<Barrier*>(stages + count * kWeightGradStageBytes);
  HopperWeightGradBlock<M>{arguments, stages, Ring{barriers, barriers + count, count}}.run();
}

template <class M>
int launch_hopper_weight_grad(const HopperWeightGrad& p, int blocks, int shared_bytes, Stream s) {
  HopperWeightGradArguments arguments{p, {}, {}};
  if (const cudaError_t error = encode(p.x, &arguments.x)) return error;
  for (int i = 0; i < 2; ++i) {
    if (p.grad.branch[i].blocks == 0) continue;  // not wanted
    if (const cudaError_t error = encode(p.du[i], &arguments.du[i])) return error;
  }
  const Launch how{dim3(unsigned(blocks)), kHopperThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch_cluster(hopper_weight_grad_kernel<M>, how, 1, arguments);
}

}  // namespace gcn::cuda
