// Gradients of weights and biases from the parts that the blocks of refine_tile.cuh have left, added in the order of a fixed
// tree. Neighbouring threads have neighbouring sums; those of padding are added too, and go nowhere. Bound by reading the parts,
// which mostly lie in L2.
#pragma once

#include "../block_sum.cuh"
#include "refine_products.cuh"

namespace gcn::cuda {

constexpr int kRefineFinishThreads = 256;

// Grid: x = 32 sums, those of one accumulator of a unit.
template <class E>
__global__ void __launch_bounds__(kRefineFinishThreads) refine_finish_kernel(GCN_PARAMS RefineFinish p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const int tid = int(threadIdx.x), lane = tid % 32, accumulator = int(blockIdx.x) % kRefineSums;
  const int unit = int(blockIdx.x) / kRefineSums;
  const int64_t to_next = int64_t(p.units) * kRefineSums * 32;
  const float* const from = p.partial + int64_t(blockIdx.x) * 32 + lane;
  const RefineGrad& g = unit < p.grad[1].first ? p.grad[0] : p.grad[1];
  const RefineGradUnit of(g, unit - g.first);
  float sum = 0;
#pragma unroll 4
  for (int part = tid / 32; part < p.blocks; part += kRefineFinishThreads / 32) sum += from[part * to_next];
  sum = sum_over_threads(sum, reinterpret_cast<float*>(shared), kRefineFinishThreads, 32);
  if (tid >= 32) return;
  const int row = c_row(lane, accumulator % 4), dy = accumulator / 4 / kRefineOutputBlocks;
  const int of_a = of.group * kRefineOutputs + accumulator / 4 % kRefineOutputBlocks * 8 + c_column(lane, accumulator % 4);
  if (of_a >= g.a) return;
  if (of.is_bias) {  // all rows are the same
    if (g.bias && row == 0 && dy == 0) static_cast<E*>(g.bias)[of_a] = from_float<E>(sum);
    return;
  }
  const RefineDepth depth(g.pixel, of.window * kRefineWindows + row, kPiece<E>);
  if (!g.weight || depth.dx >= 3 || depth.channel >= g.b) return;
  static_cast<E*>(g.weight)[(of_a * g.b + depth.channel) * 9 + dy * 3 + depth.dx] = from_float<E>(sum);
}

template <class E>
int launch_refine_finish(const RefineFinish& p, Stream s) {
  const dim3 grid(unsigned(p.units * kRefineSums));
  const Launch how{grid, kRefineFinishThreads, kRefineFinishThreads * sizeof(float), s.stream, s.dependent};
  return launch(refine_finish_kernel<E>, how, p);
}

}  // namespace gcn::cuda
