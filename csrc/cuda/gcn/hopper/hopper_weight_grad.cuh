// First weights' gradients for Hopper: the portable kernel's sums (weight_grad.cuh) in the same workspace, by wgmma on what the
// copy engine brings.
//
//   dW[c, (b, t)] = sum_p x[p, c] du[p + (t - radius) along the branch's axis, b]
//
// Who owns what: blocks are persistent, one to an SM. A unit of work is 128 channels of x, 15 taps of three octets of du's
// channels, and a split of the pixels. Warpgroup 0 copies (one thread); warpgroups 1 and 2 have 64 channels of x each and all 360
// columns: three wgmma of 64 x 120 in 180 registers a thread.
//
// A stage of the ring is a patch of 8 lines x 8 positions: x [2][position][line][64 channels], 16 KB in rows of 128 bytes, and of
// each octet the window of du under the patch and its taps, [22 positions][8 lines][8 channels], 16 bytes a pixel. Both operands
// are MN-major.
//   A  rows of a swizzled block are the lines at one position: 1024 bytes to the next position.
//   B  a block of eight depths is the lines at one position of the window; the next eight depths are the next position; the next
//      eight columns are the next tap, and so the next position, too. So the shifted windows of all taps are one operand that
//      overlaps itself, and nothing is copied twice.
// Outside of the map the copy engine writes zeros. Taps and octets past the last are computed and never written.
//
// Skipped: products of the last taps of a strip where they lead behind the end of the lines; of lines of 16, 10 % of them, of 32
// 5 %.
//
// A value that is not finite must not meet the zeros around the map: there conv2d multiplies nothing, and here that is nan. If
// one of a block's sums is not finite, the block does its units again by mma.sync on the same stages, which leaves out what has
// no partner inside the map: at half the rate, and whatever the values are.
//
// Pipeline: up to eight stages; one product group stays in flight while the next is issued. Warpgroup 2 starts half a ring behind
// warpgroup 1: while one writes its sums, which takes as long as two patches, the other has the tensor cores.
//
// Cost of a patch, 16-bit: 128 x 360 x 64 products are 1440 clocks at 2048 a clock; wgmma reads 2 x 12 x (64 + 120) x 32 bytes of
// shared memory, 141 KB or 1104 clocks; 24832 bytes come from L2. 15 taps of 24 channels are 87.5 % useful at M = 21.
#pragma once

#include "../weight_grad.cuh"
#include "hopper_block.cuh"
#include "hopper_kernels.h"

namespace gcn::cuda {

struct HopperWeightGradArguments {
  HopperWeightGrad p;
  TensorMap x[2], du[2];
};

template <class M>
struct HopperWeightGradBlock {
  static constexpr int kColumns = 8 * kStripTaps, kHalf = kColumns / 2;
  static constexpr int kSteps = kPatchSide * kPatchSide / 16;
  static constexpr int kXBytes = kPatchSide * kPatchSide * 128;
  static constexpr RoleRegisters kRegisters{kProducerRegisters, kConsumerRegisters};
  static constexpr uint32_t kRowBytes = kPatchSide * kPieceBytes;  // of a window: eight lines at one position

  const HopperWeightGradArguments& arguments;
  unsigned char* stages;
  Ring<> ring;
  StaggeredStart stagger;
  uint32_t* not_finite;  // of each consumer warp, whether one of its sums is not

  GCN_DEVICE const WeightGradParams& p() const { return arguments.p.grad; }
  GCN_DEVICE static constexpr int cluster() { return 1; }
  GCN_DEVICE static constexpr bool starts_early() { return false; }
  GCN_DEVICE void make_barriers() const {
    ring.make(2);
    stagger.make();
  }

  struct Unit {
    int axis, first_octet, first_tap, first_channel, split;
    int64_t first, last;  // patches
  };
  struct Patch {
    int n, line, position;  // its first ones
  };
  // A unit's patches, one after the other: along rows of the map.
  struct Walk {
    int n, row, column;  // in patches

    GCN_DEVICE void next(int in_column, int in_row) {
      if (++column < in_row) return;
      column = 0;
      if (++row == in_column) row = 0, ++n;
    }
    GCN_DEVICE Patch at(int axis) const {
      const int h = row * kPatchSide, w = column * kPatchSide;
      return axis == 0 ? Patch{n, w, h} : Patch{n, h, w};
    }
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
  template <class Work>
  GCN_DEVICE void for_each_unit(const Work& work) const {
    for_each_unit_of(units(), 1, [&](int i, int) { work(unit_at(i)); });
  }
  GCN_DEVICE int octets(const Unit& u) const { return min(kStripOctets, p().branch[u.axis].channels / kOctet - u.first_octet); }
  GCN_DEVICE unsigned char* stage() const { return stages + ring.slot * kWeightGradStageBytes; }

  GCN_DEVICE Walk walk(const Unit& u) const {
    const uint32_t in_row = p().patches_w, in_map = p().patches_h * in_row, first = uint32_t(u.first);
    const uint32_t n = first / in_map, in = first - n * in_map, row = in / in_row;
    return {int(n), int(row), int(in - row * in_row)};
  }
  template <class Work>
  GCN_DEVICE void for_each_patch(const Unit& u, const Work& work) const {
    const int in_column = p().patches_h, in_row = p().patches_w, axis = u.axis;
    Walk w = walk(u);
#pragma unroll 1
    for (int left = int(u.last - u.first); left > 0; --left, w.next(in_column, in_row)) work(w.at(axis));
  }

  // --- the producer warpgroup: one thread

  GCN_DEVICE void copy_patch(const Unit& u, const Patch& at) const {
    ring.start_filling(2 * kXBytes + octets(u) * kWindowBytes);
    for (int side = 0; side < 2; ++side) {
      copy_tensor_4d(stage() + side * kXBytes, &arguments.x[u.axis], u.first_channel + side * kSideChannels, at.line, at.position,
                     at.n, ring.full + ring.slot);
    }
#pragma unroll 1
    for (int o = 0; o < octets(u); ++o) {
      copy_tensor_4d(stage() + 2 * kXBytes + o * kWindowBytes, &arguments.du[u.axis], (u.first_octet + o) * kOctet, at.line,
                     at.position - p().branch[u.axis].radius + u.first_tap, at.n, ring.full + ring.slot);
    }
  }

  GCN_DEVICE void copy_units() {
    for_each_unit([&](const Unit& u) {
      for_each_patch(u, [&](const Patch& at) {
        copy_patch(u, at);
        ring.next();
      });
    });
  }
  GCN_DEVICE void copy_all() {
    if (threadIdx.x == 0) copy_units();
    if (again() && threadIdx.x == 0) copy_units();
  }

  // --- a consumer warpgroup

  // Of a step's 16 pixels, the first kTaps taps; a group of its own, because to close one behind a branch takes ptxas an empty
  // product.
  template <int kTaps>
  GCN_DEVICE void product(float (&acc)[kStripOctets][kHalf], uint64_t of_x, uint64_t of_du) const {
    wgmma_fence();
#pragma unroll
    for (uint32_t o = 0; o < kStripOctets; ++o) {
      auto& d = reinterpret_cast<float (&)[4 * kTaps]>(acc[o]);
      wgmma<8 * kTaps, true, true>(d, of_x, moved(of_du, o * kWindowBytes), true, M{});
    }
    wgmma_commit();
  }

  // `inside`: the taps that lead from the patch's first position to a place in its line. ptxas takes a piece of a register array
  // only from its start, so that nothing is left out at the other end of the line.
  GCN_DEVICE void multiply(float (&acc)[kStripOctets][kHalf], int side, int inside) const {
    const uint32_t x = shared_address(stage() + side * kXBytes), du = shared_address(stage() + 2 * kXBytes);
    const uint64_t of_x = operand(x, 0, kPatchSide * 128, Swizzle::k128);
    const uint64_t of_du = operand(du, kRowBytes, kRowBytes, Swizzle::kNone);
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      const uint64_t step_x = moved(of_x, step * 2 * kPatchSide * 128), step_du = moved(of_du, step * 2 * kRowBytes);
      const int taps = inside - 2 * step;
      if (taps > 13) {
        product<15>(acc, step_x, step_du);
      } else if (taps > 11) {
        product<13>(acc, step_x, step_du);
      } else if (taps > 9) {
        product<11>(acc, step_x, step_du);
      } else {
        product<9>(acc, step_x, step_du);
      }
    }
  }

  // The same for sums with values that are not finite. Sums stand in the registers in which wgmma has them; each warp has 16
  // channels.
  GCN_DEVICE void multiply_carefully(float (&acc)[kStripOctets][kHalf], const Unit& u, int side, const Patch& at, int warp,
                                     int lane) const {
    const WeightGradBranch& b = p().branch[u.axis];
    const int length = u.axis == 0 ? p().h : p().w, tile = lane / 8;
    const unsigned char *rows = stage() + side * kXBytes, *window = stage() + 2 * kXBytes;
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      // Rows of either operand are eight lines at one position. Of x, the units of eight channels are permuted.
      uint32_t a[4];
      const int row = step * 16 + tile / 2 * 8 + lane % 8, unit = (2 * warp + tile % 2) ^ (lane % 8);
      ldmatrix_x4_trans(a, rows + row * 128 + unit * kPieceBytes);
      const int position = at.position + 2 * step;
#pragma unroll
      for (int o = 0; o < kStripOctets; ++o) {
        constexpr int kLoaded = 4;  // positions of the window at a time
        uint32_t w[kStripTaps + 1];
        const unsigned char* from = window + o * kWindowBytes + 2 * step * int(kRowBytes) + lane * kPieceBytes;
#pragma unroll
        for (int i = 0; i < kStripTaps + 1; i += kLoaded) {
          uint32_t loaded[kLoaded];
          ldmatrix_x4_trans(loaded, from + i * int(kRowBytes));
#pragma unroll
          for (int k = 0; k < kLoaded; ++k) w[i + k] = loaded[k];
        }
#pragma unroll
        for (int t = 0; t < kStripTaps; ++t) {
          const auto inside = [&](int i) {
            return i < length && unsigned(i + u.first_tap + t - b.radius) < unsigned(length) ? ~0u : 0u;
          };
          const uint32_t low = inside(position), high = inside(position + 1);
          auto& sums = reinterpret_cast<float (&)[kStripTaps][4]>(acc[o])[t];
          if (low | high) mma(sums, {a[0] & low, a[1] & low, a[2] & high, a[3] & high}, {w[t] & low, w[t + 1] & high}, M{});
        }
      }
    }
  }

  // nan and inf are all that is not zero when multiplied by zero.
  GCN_DEVICE bool write(const float (&acc)[kStripOctets][kHalf], const Unit& u, int side, int warp, int lane) const {
    const WeightGradBranch& b = p().branch[u.axis];
    const int octets_left = octets(u), taps_left = b.taps - u.first_tap;
    const int channel = u.first_channel + side * kSideChannels + warp * 16 + c_row(lane, 0);
    const int64_t row = int64_t(p().blocks_per_row) * kOctet, octet = int64_t(b.taps) * kOctet;
    float probe = 0;
    float* to = p().partial + (int64_t(u.split) * p().channels + channel) * row +
                int64_t(b.first_block + u.first_octet * b.taps + u.first_tap) * kOctet + c_column(lane, 0);
#pragma unroll
    for (int half = 0; half < 2; ++half, to += 8 * row) {
      float* of_octet = to;
#pragma unroll
      for (int o = 0; o < kStripOctets; ++o, of_octet += octet) {
        const int taps = channel + 8 * half < p().channels && o < octets_left ? taps_left : 0;
#pragma unroll
        for (int t = 0; t < kStripTaps; ++t) {
          if (t < taps) {
            probe += (acc[o][4 * t + 2 * half] + acc[o][4 * t + 2 * half + 1]) * 0.0f;
            *reinterpret_cast<float2*>(of_octet + int64_t(t) * kOctet) =
                make_float2(acc[o][4 * t + 2 * half], acc[o][4 * t + 2 * half + 1]);
          }
        }
      }
    }
    return probe == 0;
  }

  // Returns whether all sums of this thread are finite.
  template <bool kCareful>
  GCN_DEVICE bool multiply_units(int side) {
    const int thread = int(threadIdx.x) % kGroupSize, lane = thread % 32;
    bool finite = true;
    if (!kCareful) stagger.start(side, lane);
    for_each_unit([&](const Unit& u) {
      const WeightGradBranch& b = p().branch[u.axis];
      const int length = u.axis == 0 ? p().h : p().w;
      float acc[kStripOctets][kHalf] = {};
      const int behind = length + b.radius - u.first_tap;
      for_each_patch(u, [&](const Patch& at) {
        ring.wait_until_full();
        if constexpr (kCareful) {
          multiply_carefully(acc, u, side, at, thread / 32, lane);
          ring.release(ring.slot, lane);
          return ring.next();
        }
        multiply(acc, side, behind - at.position);
        wgmma_wait<kSteps>();
        ring.release_in_flight(lane);
        ring.next_in_flight();
        stagger.count();
      });
      if constexpr (!kCareful) {
        wgmma_wait<0>();
#pragma unroll
        for (int o = 0; o < kStripOctets; ++o) wgmma_results(acc[o]);
        ring.release_in_flight(lane);
      }
      finite &= write(acc, u, side, thread / 32, lane);
    });
    if (!kCareful) stagger.end();
    return finite;
  }
  GCN_DEVICE void multiply_all(int side) {
    const int warp = of_first_lane(int(threadIdx.x) / 32) - kConsumerWarps;
    const uint32_t bad = ballot(!multiply_units<false>(side));
    if (threadIdx.x % 32 == 0) store_shared(not_finite + warp, bad);
    if (again()) multiply_units<true>(side);
  }

  // All threads of the block come here when their units are done.
  GCN_DEVICE bool again() const {
    group_barrier(1, kHopperThreads);
    uint32_t any = 0;
#pragma unroll
    for (int i = 0; i < 2 * kConsumerWarps; ++i) any |= load_shared(not_finite + i);
    return any != 0;
  }
};

template <class M>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_weight_grad_kernel(GCN_PARAMS HopperWeightGradArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  unsigned char* stages = swizzle_aligned(shared);
  const int count = arguments.p.stages;
  Barrier* barriers = reinterpret_cast<Barrier*>(stages + count * kWeightGradStageBytes);
  uint32_t* not_finite = reinterpret_cast<uint32_t*>(barriers + 2 * count + 1);
  run_block(HopperWeightGradBlock<M>{
      arguments, stages, {barriers, barriers + count, count}, {barriers + 2 * count, count / 2}, not_finite});
}

template <class M>
int launch_hopper_weight_grad(const HopperWeightGrad& p, int blocks, int shared_bytes, Stream s) {
  HopperWeightGradArguments arguments{p, {}, {}};
  for (int i = 0; i < 2; ++i) {
    if (p.grad.branch[i].blocks == 0) continue;  // not wanted
    if (const cudaError_t error = encode(p.x[i], &arguments.x[i])) return error;
    if (const cudaError_t error = encode(p.du[i], &arguments.du[i])) return error;
  }
  const Launch how{dim3(unsigned(blocks)), kHopperThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch_cluster(hopper_weight_grad_kernel<M>, how, 1, arguments);
}

}  // namespace gcn::cuda
