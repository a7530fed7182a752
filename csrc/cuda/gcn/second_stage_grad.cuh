// The gradients of the second stage in one launch: both of them want dy alone, and neither waits for the other.
//
//   dw_l2, dw_r2   narrow blocks of weight_grad.cuh, which last longest and so come first
//   du_l, du_r     narrow blocks of line_conv.cuh
//
// One launch less is 1 us and the start of a main loop, about as much as either takes on the smallest maps; on the larger ones
// the blocks of one kind fill what the other leaves idle. Registers let 3 blocks share an SM (2 in true float32). Where either
// is not wanted, or du has more channels than the narrow tiles, the other runs alone.
#pragma once

#include "line_conv.cuh"
#include "weight_grad.cuh"

namespace gcn::cuda {

template <class M, LineTile kTile>
__global__ void __launch_bounds__(kThreads, weight_grad_blocks_per_multiprocessor(kIsFp32<M>, true))
    second_stage_grad_kernel(GCN_PARAMS SecondStageGradParams p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  int block = blockIdx.x;
  if (block < p.dw_blocks) {
    const int groups = p.dw.branch[0].groups + p.dw.branch[1].groups, row = block / groups;
    return run_weight_grad<M, true, true, kNarrowColumnBlocks>(p.dw, block % groups, row / p.dw.splits, row % p.dw.splits,
                                                               shared);
  }
  block -= p.dw_blocks;
  const LineConv& first = p.du.job[0];
  const int of_first = first.n * first.tiles_h * first.tiles_w, job = block >= of_first;
  run_line_conv<M, kTile>(p.du.job[job], block - job * of_first, 0, shared);
}

template <class M, LineTile kTile>
int launch_second_stage_grad_tile(const SecondStageGradParams& p, int shared_bytes, Stream s) {
  unsigned blocks = unsigned(p.dw_blocks);
  for (int i = 0; i < p.jobs; ++i) blocks += unsigned(p.du.job[i].n) * p.du.job[i].tiles_h * p.du.job[i].tiles_w;
  const Launch how{dim3(blocks), kThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch(second_stage_grad_kernel<M, kTile>, how, p);
}

template <class M>
int launch_second_stage_grad(LineTile tile, const SecondStageGradParams& p, int shared_bytes, Stream s) {
  if (tile == LineTile::kNarrow) return launch_second_stage_grad_tile<M, LineTile::kNarrow>(p, shared_bytes, s);
  if (tile == LineTile::kNarrowSmall) return launch_second_stage_grad_tile<M, LineTile::kNarrowSmall>(p, shared_bytes, s);
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
