// The first stage of single images, from weights as they are given, in 16 bits, where their channels are whole pieces:
// first_stage.cuh without a launch that packs them. Each column's pieces are copied from where they stand, by a table of 672
// bytes behind the stages.
//
// A block whose channels are a split leaves its sums in the workspace and takes a ticket; the block with a tile's last one adds
// all splits, in their order, and writes u. That is 16 x 5.6 KB to read for eleven middle channels in 16 splits, instead of a
// launch.
#pragma once

#include "first_stage.cuh"

namespace gcn::cuda {

template <class M, int kColumnBlocks>
struct GivenWeights {
  using E = Element<M>;
  static constexpr int kCopyBytes = kThreads * kPieceBytes;  // from one of a thread's pieces to the next, in a stage
  static constexpr uint32_t kOutside = 0xffffffffu;

  const UnpackedFirstStage* given;
  const unsigned char* from = nullptr;  // the branch's first weight of the k-block to come

  // Of each column, where its weights begin, in pieces, or kOutside.
  template <class Block>
  GCN_DEVICE static uint32_t* columns(const Block& block) {
    return reinterpret_cast<uint32_t*>(block.stages() + kFirstStageStages * Block::kStageBytes);
  }
  template <class Block>
  GCN_DEVICE void find_columns(const Block& block, int first_mid) const {
    const StridedWeights& w = given->weights[block.axis];
    const uint32_t next_mid = uint32_t(w.output_stride / kPiece<E>), next_tap = uint32_t(w.tap_stride / kPiece<E>);
    for (int column = threadIdx.x; column < 8 * kColumnBlocks; column += kThreads) {
      const int tap = column / block.mids, m = column - tap * block.mids;
      const uint32_t at = uint32_t(first_mid + m) * next_mid + uint32_t(given->skipped[block.axis] + tap) * next_tap;
      store_shared(columns(block) + column, tap < block.taps ? at : kOutside);
    }
  }

  template <class Block>
  GCN_DEVICE void start(const Block& block, int first) {
    from = static_cast<const unsigned char*>(given->weights[block.axis].data) + int64_t(first) * kBlockBytes;
  }

  // A thread has the same piece of every 32nd column.
  template <class Block>
  GCN_DEVICE void load(unsigned char* to, int k_block, const Block& block) {
    constexpr int kStep = kThreads / 4, kColumns = 8 * kColumnBlocks;
    const int first = int(threadIdx.x) / 4, piece = int(threadIdx.x) % 4 ^ (swizzle_rows(first, 0) & 3);
    const bool within = k_block * Block::kBlockDepth + piece * kPiece<E> < block.p.c;
    to += int(threadIdx.x) * kPieceBytes;
#pragma unroll
    for (int i = 0; i < (kColumns + kStep - 1) / kStep; ++i) {
      if (first + i * kStep >= kColumns) continue;
      const uint32_t at = load_shared(columns(block) + first + i * kStep);
      const bool valid = within && at != kOutside;
      copy_async<16>(to + i * kCopyBytes, from + (valid ? uint64_t(at) + piece : 0) * kPieceBytes, valid);
    }
    from += kBlockBytes;
  }

  template <class Block>
  GCN_DEVICE static bool in_parts(const Block& block) {
    return block.p.splits > 1;
  }

  // Whether this block completes its tile, of which it has left its split in the workspace; then all splits are in `sums`.
  template <class Block>
  GCN_DEVICE bool completes(const Block& block, float* sums, int first_mid) const {
    if (!takes_last_ticket(block)) return false;
    add_splits(block, sums, first_mid);
    return true;
  }

  // Whether all other splits of this block's sums have been written.
  template <class Block>
  GCN_DEVICE bool takes_last_ticket(const Block& block) const {
    static uint32_t of_module[kTicketSlots * kTicketsOfACall];  // zero between calls
    const FirstStageParams& p = block.p;
    uint32_t* const counters = given->tickets >= 0 ? of_module + given->tickets : given->counters;
    uint32_t* const taken = reinterpret_cast<uint32_t*>(block.stages());
    const int groups = p.branch[0].groups + p.branch[1].groups;
    const int own = block.tile * groups + block.axis * p.branch[0].groups + block.group;
    const uint32_t last = uint32_t(p.splits) - 1;
    __syncthreads();  // all threads have written theirs
    if (threadIdx.x == 0) store_shared(taken, take_ticket(counters + own, last));
    __syncthreads();
    return load_shared(taken) == last;
  }

  // A lane has four pixels, a warp every fourth middle channel; splits are added in their order.
  template <class Block>
  GCN_DEVICE void add_splits(const Block& block, float* sums, int first_mid) const {
    constexpr int kTogether = 8;  // splits whose sums are on their way
    const FirstStageParams& p = block.p;
    const FirstStageBranch& b = block.b;
    const int row = first_stage_sums_row(kTilePixels);
    const int64_t next_split = int64_t(p.tiles) * b.mid * kTilePixels;
    for (int m = block.warp; m < block.mids; m += kThreads / 32) {
      const float* at = b.partial + ((int64_t(block.tile) * b.mid + first_mid + m) * kTilePixels + block.lane * 4);
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
      for (int first = 0; first < p.splits; first += kTogether, at += kTogether * next_split) {
        float4 part[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          part[i] =
              first + i < p.splits ? load_global(reinterpret_cast<const float4*>(at + i * next_split)) : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          sum.x += part[i].x, sum.y += part[i].y, sum.z += part[i].z, sum.w += part[i].w;
        }
      }
      float* const to = sums + m * row + block.lane * 4;
      store_shared(to, sum.x), store_shared(to + 1, sum.y), store_shared(to + 2, sum.z), store_shared(to + 3, sum.w);
    }
  }
};

template <class M, int kColumnBlocks>
__global__ void __launch_bounds__(kThreads, 2) unpacked_first_stage_kernel(GCN_PARAMS UnpackedFirstStage p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  const FirstStageBranch(&branch)[2] = p.stage.branch;
  const int items = branch[0].groups + branch[1].groups, item = int(blockIdx.x) % items;
  const int axis = item >= branch[0].groups, group = axis ? item - branch[0].groups : item;
  FirstStage<M, kColumnBlocks, true, GivenWeights<M, kColumnBlocks>>{
      p.stage, branch[axis], axis, group, int(blockIdx.x) / items, int(blockIdx.y), int(threadIdx.x) % 32, int(threadIdx.x) / 32,
      shared,  {&p}}
      .run();
}

template <class M, int kColumnBlocks>
int launch_unpacked_first_stage(const UnpackedFirstStage& p, int shared_bytes, Stream s) {
  const int items = p.stage.branch[0].groups + p.stage.branch[1].groups;
  const Launch how{dim3(unsigned(p.stage.tiles) * items, p.stage.splits), kThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch(unpacked_first_stage_kernel<M, kColumnBlocks>, how, p);
}

template <class M>
int launch_unpacked_first_stage(int column_blocks, const UnpackedFirstStage& p, int shared_bytes, Stream s) {
  if (column_blocks == 8) return launch_unpacked_first_stage<M, 8>(p, shared_bytes, s);
  if (column_blocks == 21) return launch_unpacked_first_stage<M, 21>(p, shared_bytes, s);
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
