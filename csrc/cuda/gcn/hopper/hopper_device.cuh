// The device layer of the Hopper kernels, beside device.cuh: what only sm_90a has. One name for each instruction and two faces,
// PTX (hopper_ptx.cuh) and emulation on a CPU (tests/emu/emulated_hopper.h).
//
//   Barrier                                an mbarrier: 8 bytes of shared memory
//   barrier_init(b, arrivals)              by one thread; then fence_barrier_init() by it, then a barrier of all who use it
//   barrier_arrive(b), barrier_arrive_at(b, rank)   of this block; the same place in block `rank` of the cluster
//   barrier_expect(b, bytes)               one arrival, and so many bytes of copies that the phase waits for
//   barrier_wait(b, parity)                until the phase of this parity has ended; the phase before the first has parity 1
//   copy_bulk(to, from, bytes, b)          cp.async.bulk: contiguous bytes; addresses and size in multiples of 16
//   copy_bulk_multicast(..., ranks)        to the same place, and the same barrier, of every block in the set `ranks`
//   TensorMap                              how a box of a strided map is copied: encode() makes one from a TensorShape (host)
//   prefetch(map)                          a hint: the map will soon be used
//   copy_tensor_2d, _3d, _4d(to, map, coordinates..., b)   zeros outside of the map; the box's bytes count as copied all the same
//   fence_async_proxy()                    between ordinary stores to shared memory and copies or wgmma that touch the same
//   wgmma_fence(), _commit(), _wait<N>()   before a group whose registers, of D or of A, something else has written; close a
//                                          group; at most N groups in flight
//   wgmma_results(d)                       after the wait, before d is read
//   wgmma<N, kTransA, kTransB>(d, a, b, add, M{})   d [64 x N] (+)= a [64 x 32 bytes] b [32 bytes x N], of a warpgroup
//   wgmma<N>(d, a, b, add, M{})            the same with A in registers, as ldmatrix_x4 brings a warp its 16 rows of it; b is
//                                          K-major. They belong to wgmma until it has been waited for.
//   operand(address, leading, stride, Swizzle)   a matrix in shared memory, as wgmma's descriptors say it, see below
//   stmatrix_x4_trans(to, r)               the way back of ldmatrix_x4_trans: lane 8 i + j gives the address of row j of tile i
//   pack_relu(low, high, E{})              two numbers of 16 bits in a word, zero where they would be negative; nan stays
//   registers_release<N>(), registers_take<N>()  setmaxnreg, by all warps of a warpgroup
//   group_barrier(id, threads)             bar.sync: a barrier of some warps; id 1 ... 15
//   of_first_lane(value)                   the value of the warp's first lane, which all lanes have: tells the compiler so
//   cluster_rank(), cluster_sync()         of this block; a barrier of all blocks of the cluster
//   launch_cluster(kernel, Launch, blocks in a cluster, arguments...)   host side
//
// wgmma's D: thread t of the warpgroup has D[16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2)][2 (t % 4) + i % 2 + 8 (i / 4)] in d[i].
//
// Operands in shared memory. A 16-byte unit holds 8 numbers of 16 bits (4 of 32). K-major: units run along the depth; MN-major
// ("transposed", 16 bits only): along rows of A or columns of B, called rows below. With kNone, eight units follow each other as
// a block of 128 bytes; with k32, k64, k128 the map's rows of so many bytes do, and their units are permuted: bits 4-6 of an
// address are xored with bits 7-9 as far as the row is long, which is what a copy_tensor of such rows writes.
//   K-major, kNone       block = 8 rows x 1 unit of depth;   leading: to the next unit of depth;  stride: to the next 8 rows
//   K-major, swizzled    row = one row's depth;              leading: not used;                   stride: to the next 8 rows
//   MN-major, kNone      block = 8 depths x 8 rows;          leading: to the next 8 depths;       stride: to the next 8 rows
//   MN-major, swizzled   row = one depth's 16 ... 64 rows;   leading: to the next so many rows;   stride: to the next 8 depths
// leading and stride are free multiples of 16 bytes, so blocks may overlap: that makes a shifted operand a step of the address.
//
// What the emulator does not model: the proxies beyond the rule above, the order in which multicast copies arrive in different
// blocks, what setmaxnreg does to a kernel compiled for more registers, and all that emulated_device.h lists.
#pragma once

#include "../../device.cuh"
#include "tensor_shape.h"

namespace gcn::cuda {

using Barrier = uint64_t;

enum class Swizzle : int { kNone = 0, k128 = 1, k64 = 2, k32 = 3 };

// 14 bits in units of 16 bytes. Shared addresses have more: in a cluster, the block's rank from bit 24 on.
constexpr uint32_t kOperandField = 0x3FFFF;

GCN_HOST_DEVICE constexpr uint64_t operand(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes, Swizzle swizzle) {
  return uint64_t((address & kOperandField) >> 4) | uint64_t((leading_bytes & kOperandField) >> 4) << 16 |
         uint64_t((stride_bytes & kOperandField) >> 4) << 32 | uint64_t(static_cast<int>(swizzle)) << 62;
}

// The matrix that is described for address 0, at this address.
GCN_HOST_DEVICE constexpr uint64_t placed(uint64_t operand, uint32_t address) { return operand | (address & kOperandField) >> 4; }

// The same matrix `bytes` further on.
GCN_HOST_DEVICE constexpr uint64_t moved(uint64_t operand, uint32_t bytes) { return operand + (bytes >> 4); }

}  // namespace gcn::cuda

#if defined(__CUDACC__)
#include "hopper_launch.cuh"
#include "hopper_ptx.cuh"
#else
#include "emulated_hopper.h"
#endif
