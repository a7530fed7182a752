// The second stage from weights as they are given: line_conv.cuh's sums, without a launch that packs weights.
//
//   y = (u_l, along rows, w_l2) + (u_r, along columns, w_r2) + b_l2 + b_r2
//
// For a single image, where each launch takes about as long as its work. Weights do not depend on the launch before, so a block
// packs all of them into shared memory, where line_conv.cuh has a ring, before it waits for u; then its main loop has neither
// copies nor barriers. k = 15, M = O = 21: 26 KB are read, 18 pieces of eight elements by each thread, and 37 KB of shared memory
// are written; windows of 4 x 8 pixels take 11 KB beside them, so that registers allow as many blocks as of line_conv.cuh.
#pragma once

#include "line_conv.cuh"
#include "prepare.cuh"

namespace gcn::cuda {

template <class M>
struct UnpackedSecondStageBlock : LineConvBlock<M, LineTile::kNarrowSmall> {
  using Base = LineConvBlock<M, LineTile::kNarrowSmall>;
  using E = typename Base::E;
  static constexpr int kBlockOfWeights = Base::kOutputs * kBlockBytes;
  static_assert(Base::kShape.warps_k == Base::kWarps, "all warps share the depth");

  GCN_DEVICE void pack_weights(const PackLineWeights& j) const {
    uint4* const to = reinterpret_cast<uint4*>(this->shared + this->stages_at);
    const int pieces = int(line_weights_pieces(j));
#pragma unroll 4
    for (int i = threadIdx.x; i < pieces; i += kThreads) {
      pack_line_piece<M>(j, i,
                         [&](int64_t at, const auto& values) { store_shared(to + at, reinterpret_cast<const uint4&>(values)); });
    }
  }

  GCN_DEVICE void load_windows(const typename Base::Depth& depth) const {
    this->load_window(0, 0, depth.per_tap0);
    this->load_window(1, 0, depth.per_tap1);
    copy_commit();
    copy_wait<0>();
  }

  GCN_DEVICE void multiply_all(typename Base::Accumulators& acc, const typename Base::Depth& depth) const {
    const int k_blocks = (depth.all + 3) / 4;
    const typename Base::WeightLanes lanes = this->find_weight_lanes();
    typename Base::PixelsAt pixel_at;
    int other_pixels = 0;  // from which k-block on
#pragma unroll 1
    for (int k_block = this->warp_k; k_block < k_blocks; k_block += Base::kWarps) {
      const typename Base::Steps steps = this->steps_of(k_block);
      if (k_block >= other_pixels) {
        this->find_pixels(pixel_at, steps.entry);
        other_pixels = k_block * 4 < depth.first ? max(k_block + 1, depth.first / 4) : depth.all / 4;
      }
      this->multiply(acc, steps, this->shared + (this->stages_at + k_block * kBlockOfWeights), lanes, pixel_at);
    }
  }

  GCN_DEVICE void run(const PackLineWeights& weights) {
    this->find_block();
    float acc[Base::kShape.blocks_m][Base::kShape.blocks_n][4] = {};
    const typename Base::Depth depth = this->depth_of(0);
    this->write_table(depth, this->p.k_blocks);
    pack_weights(weights);
    wait_for_dependencies();  // u
    load_windows(depth);
    __syncthreads();
    multiply_all(acc, depth);
    __syncthreads();  // before the windows are overwritten
    this->write(acc);
  }
};

// Grid: x = rectangle of pixels.
template <class M>
__global__ void __launch_bounds__(kThreads, line_blocks_per_multiprocessor(false, LineTile::kNarrowSmall))
    unpacked_second_stage_kernel(GCN_PARAMS UnpackedSecondStage p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  const int lane = int(threadIdx.x) % 32, warp = broadcast(int(threadIdx.x) / 32);
  UnpackedSecondStageBlock<M>{{p.job, shared, lane, 0, 0, warp, int(blockIdx.x), 0}}.run(p.weights);
}

template <class M>
int launch_unpacked_second_stage(const UnpackedSecondStage& p, int shared_bytes, Stream s) {
  const Launch how{dim3(unsigned(p.job.n) * p.job.tiles_h * p.job.tiles_w), kThreads, size_t(shared_bytes), s.stream,
                   s.dependent};
  return launch(unpacked_second_stage_kernel<M>, how, p);
}

}  // namespace gcn::cuda
