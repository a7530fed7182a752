// Gradients of weights and biases from the parts that the blocks of refine_tile.cuh have left, added in the order of a fixed
// tree. Neighbouring threads have neighbouring sums; those of padding are added too, and go nowhere. Bound by reading the parts,
// which mostly lie in L2.
#pragma once

#include "../block_sum.cuh"
#include "../fragment.cuh"
#include "refine_kernels.h"

namespace gcn::cuda {

constexpr int kRefineFinishThreads = 256;

// Grid: x = 32 sums, those of one accumulator of a unit.
template <class E>
__global__ void __launch_bounds__(kRefineFinishThreads) refine_finish_kernel(GCN_PARAMS RefineFinish p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const int tid = int(threadIdx.x), lane = tid % 32, accumulator = int(blockIdx.x) % kRefineSums;
  int unit = int(blockIdx.x) / kRefineSums;
  const int64_t to_next = int64_t(p.units) * kRefineSums * 32;
  const float* const from = p.partial + int64_t(blockIdx.x) * 32 + lane;
  float sum = 0;
#pragma unroll 4
  for (int part = tid / 32; part < p.blocks; part += kRefineFinishThreads / 32) sum += from[part * to_next];
  sum = sum_over_threads(sum, reinterpret_cast<float*>(shared), kRefineFinishThreads, 32);
  if (tid >= 32) return;
  const RefineGrad& g = unit < p.grad[1].first ? p.grad[0] : p.grad[1];
  unit -= g.first;
  const int row = unit / g.groups / 3 * 16 + c_row(lane, accumulator % 4), column = c_column(lane, accumulator % 4);
  const int dy = unit / g.groups % 3, group = unit % g.groups, block = accumulator / 4;
  if (row >= g.a) return;
  if (block == 3 * kRefineOutputBlocks) {
    if (g.bias && dy == 1 && group == 0 && column == 0) static_cast<E*>(g.bias)[row] = from_float<E>(sum);
    return;
  }
  const int dx = block / kRefineOutputBlocks, of_b = group * kRefineOutputs + block % kRefineOutputBlocks * 8 + column;
  if (g.weight && of_b < g.b) static_cast<E*>(g.weight)[(row * g.b + of_b) * 9 + dy * 3 + dx] = from_float<E>(sum);
}

template <class E>
int launch_refine_finish(const RefineFinish& p, Stream s) {
  const dim3 grid(unsigned(p.units * kRefineSums));
  const Launch how{grid, kRefineFinishThreads, kRefineFinishThreads * sizeof(float), s.stream, s.dependent};
  return launch(refine_finish_kernel<E>, how, p);
}

}  // namespace gcn::cuda
