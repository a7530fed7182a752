// Boundary refinement in one launch, forward or backward, on tiles in shared memory (refine_kernels.h). All products are the
// tensor cores' (refine_products.cuh), in 16 bits, tf32, or fp32 out of three tf32 products.
//
//   forward    load x | u = relu(conv x), zero outside of the image | y = x + conv u, in place of x | store y
//   backward   load x, dy | u again | sums for w2, of dy and u | du = conv^T dy where u is not at most zero, in place of u
//              | sums for w1, of du and x, and dx = dy + conv^T du, in place of dy | store dx
//
// with a barrier at each |. A block carries out tile after tile. Its weights are brought into the order of fragments once or,
// where they would leave no room for a tile, those of a convolution before each. The sums of its tiles are one part, which
// refine_finish.cuh adds to those of other blocks. Lanes add to sums of their own in device memory, which stay in L2. u and du
// are kept in the stored type, as PyTorch keeps them.
//
// In device memory x is read once, with halos mostly from L2, and y is written once. The u of a tile's border is computed by
// both neighbours: (rows cols) / ((rows - 2) (cols - 2)) as much work.
#pragma once

#include "refine_products.cuh"

namespace gcn::cuda {

template <class M>
constexpr bool kIsFp32 = false;
template <>
inline constexpr bool kIsFp32<Fp32> = true;

template <class M>
class RefineBlock {
 public:
  using E = Element<M>;
  using Pair = RefinePair<E>;

  GCN_DEVICE RefineBlock(const RefineTile& p, unsigned char* shared)
      : p(p), shared(shared), lane(int(threadIdx.x) % 32), warp(int(threadIdx.x) / 32) {}

  GCN_DEVICE void forward() {
    if (!p.in_turns) {
      load_weights<M>(p.conv[0], p.pixel_c, shared);
      load_weights<M>(p.conv[1], p.pixel_m, shared);
    }
#pragma unroll 1
    for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
      const RefinePlace place(p, tile);
      const RefineMap<E> x = around(place, p.x_at), u = region(place);
      if (p.in_turns) load_weights<M>(p.conv[0], p.pixel_c, shared);
      load_map(x, p.x, place.n, p.c, p.h, p.w);
      __syncthreads();
      middle(x, u);
      __syncthreads();
      take_turn(p.conv[1], p.pixel_m);
      result(p.conv[1], u, x);
      __syncthreads();
      store(place, x);
      __syncthreads();
    }
  }

  GCN_DEVICE void backward() {
    if (!p.in_turns) {
      load_weights<M>(p.conv[0], p.pixel_c, shared);
      if (p.wants_du) load_weights<M>(p.conv[1], p.pixel_c, shared);
      if (p.wants_dx) load_weights<M>(p.conv[2], p.pixel_m, shared);
    }
#pragma unroll 1
    for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
      const RefinePlace place(p, tile);
      const RefineMap<E> x = around(place, p.x_at), dy = around(place, p.dy_at), u = region(place);
      const int rows = min(p.rows - 2, p.h - place.row0), cols = min(p.cols - 2, p.w - place.col0);
      const bool first = tile == blockIdx.x;
      if (p.in_turns) load_weights<M>(p.conv[0], p.pixel_c, shared);
      load_map(x, p.x, place.n, p.c, p.h, p.w);
      load_map(dy, p.dy, place.n, p.c, p.h, p.w);
      __syncthreads();
      middle(x, u);
      __syncthreads();
      gradient(p.grad[1], dy, dy.at(2, 2), u, u.at(0, 0), rows, cols, first);
      if (p.wants_du) {
        take_turn(p.conv[1], p.pixel_c);
        __syncthreads();  // u is overwritten
        middle_gradient(dy, u);
        __syncthreads();
        gradient(p.grad[0], u, u.at(1, 1), x, x.at(1, 1), rows, cols, first);
        if (p.wants_dx) {
          take_turn(p.conv[2], p.pixel_m);
          result(p.conv[2], u, dy);
          __syncthreads();
          store(place, dy);
        }
      }
      __syncthreads();
    }
  }

 private:
  // The region of a tile, and what lies around it.
  GCN_DEVICE RefineMap<E> region(const RefinePlace& place) const {
    return {reinterpret_cast<E*>(shared + p.u_at), p.rows, p.cols, p.pixel_m, place.row0 - 1, place.col0 - 1};
  }
  GCN_DEVICE RefineMap<E> around(const RefinePlace& place, int at) const {
    return {reinterpret_cast<E*>(shared + at), p.rows + 2, p.cols + 2, p.pixel_c, place.row0 - 2, place.col0 - 2};
  }

  GCN_DEVICE const unsigned char* weights_of(const RefineConv& conv, int group) const {
    return shared + conv.weights + group * conv.steps * 3 * kRefineOutputBlocks * 64 * 4;
  }
  GCN_DEVICE float bias_of(const RefineConv& conv, int output) const {
    return load_shared(reinterpret_cast<const float*>(shared + conv.biases) + output);
  }

  // Where weights take turns: those of a convolution, in the place of those before, which nobody reads any more.
  GCN_DEVICE void take_turn(const RefineConv& conv, int pixel) const {
    if (!p.in_turns) return;
    load_weights<M>(conv, pixel, shared);
    __syncthreads();
  }

  // The convolution of `from` at the region's pixels; of each output and the next, then(their place in u, row, column, output,
  // both sums) makes what is stored there.
  template <class Then>
  GCN_DEVICE void for_region(const RefineConv& conv, const RefineMap<E>& from, const RefineMap<E>& u, const Then& then) const {
    const int across = p.cols / kRefineUnitCols, units = conv.groups * (p.rows / kRefineUnitRows) * across;
#pragma unroll 1
    for (int unit = warp; unit < units; unit += kRefineWarps) {
      const int group = unit % conv.groups, place = unit / conv.groups;
      const int row0 = place / across * kRefineUnitRows, col0 = place % across * kRefineUnitCols;
      RefineUnitSums sums;
      clear(sums);
      multiply<M>(sums, from, from.at(row0, col0), weights_of(conv, group), lane);
      for_outputs(sums, lane, [&](int row, int col, int of_group, float sum0, float sum1) {
        const int output = group * kRefineOutputs + of_group;
        if (output >= u.pixel) return;
        Pair* const at = reinterpret_cast<Pair*>(u.at(row0 + row, col0 + col) + output);
        const float sum[2] = {sum0, sum1};
        store_shared(at, then(at, u.row0 + row0 + row, u.col0 + col0 + col, output, sum));
      });
    }
  }

  GCN_DEVICE void middle(const RefineMap<E>& x, const RefineMap<E>& u) const {
    for_region(p.conv[0], x, u, [&](const Pair*, int at_h, int at_w, int output, const float (&sum)[2]) {
      const bool inside = at_h >= 0 && at_h < p.h && at_w >= 0 && at_w < p.w;
      Pair pair;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float value = sum[e] + bias_of(p.conv[0], output + e);
        const bool is_zero = !inside || output + e >= p.m || value < 0;  // nan stays
        pair.value[e] = from_float<E>(is_zero ? 0.0f : value);
      }
      return pair;
    });
  }

  // The lane that has a pixel's u has its du.
  GCN_DEVICE void middle_gradient(const RefineMap<E>& dy, const RefineMap<E>& u) const {
    for_region(p.conv[1], dy, u, [&](const Pair* at, int, int, int, const float (&sum)[2]) {
      Pair pair = load_shared(at);
#pragma unroll
      for (int e = 0; e < 2; ++e) pair.value[e] = from_float<E>(to_float(pair.value[e]) <= 0 ? 0.0f : sum[e]);
      return pair;
    });
  }

  // sum = sum + conv(from) + bias on the core; what is beside it, in the last columns of a row, nobody reads.
  GCN_DEVICE void result(const RefineConv& conv, const RefineMap<E>& from, const RefineMap<E>& sum) const {
    const int across = p.cols / kRefineUnitCols, units = conv.groups * ((p.rows - 2) / kRefineUnitRows) * across;
#pragma unroll 1
    for (int unit = warp; unit < units; unit += kRefineWarps) {
      const int group = unit % conv.groups, place = unit / conv.groups;
      const int row0 = place / across * kRefineUnitRows, col0 = place % across * kRefineUnitCols;
      RefineUnitSums sums;
      clear(sums);
      multiply<M>(sums, from, from.at(row0, col0), weights_of(conv, group), lane);
      for_outputs(sums, lane, [&](int row, int col, int of_group, float sum0, float sum1) {
        const int output = group * kRefineOutputs + of_group;
        if (output >= p.c) return;
        Pair* const at = reinterpret_cast<Pair*>(sum.at(row0 + row + 2, col0 + col + 2) + output);
        Pair pair = load_shared(at);
        const float value[2] = {sum0 + bias_of(conv, output), sum1 + bias_of(conv, output + 1)};
#pragma unroll
        for (int e = 0; e < 2; ++e) pair.value[e] = from_float<E>(to_float(pair.value[e]) + value[e]);
        store_shared(at, pair);
      });
    }
  }

  GCN_DEVICE void store(const RefinePlace& place, const RefineMap<E>& from) const {
    const RefineMap<E> core = {from.at(2, 2), from.rows, from.cols, from.pixel, place.row0, place.col0};
    store_map(core, min(p.rows - 2, p.h - place.row0), min(p.cols - 2, p.w - place.col0), p.out, place.n, p.c);
  }

  GCN_DEVICE void gradient(const RefineGrad& g, const RefineMap<E>& a, const E* a_first, const RefineMap<E>& b, const E* b_first,
                           int rows, int cols, bool first) const {
    if (!g.weight && !g.bias) return;
#pragma unroll 1
    for (int unit = warp; unit < g.blocks * 3 * g.groups; unit += kRefineWarps) {
      float sums[kRefineSums / 4][4] = {};
      add_up<M>(sums, RefineGradUnit(g, unit), a, a_first, b, b_first, rows, cols, lane);
      float* const to = p.partial + (int64_t(blockIdx.x) * p.units + g.first + unit) * (kRefineSums * 32) + lane;
#pragma unroll
      for (int i = 0; i < kRefineSums; ++i) {
        const float sum = sums[i / 4][i % 4];
        to[i * 32] = first ? sum : to[i * 32] + sum;
      }
    }
  }

  const RefineTile& p;
  unsigned char* const shared;
  const int lane, warp;
};

template <class M>
__global__ void __launch_bounds__(kRefineThreads, refine_most_blocks(kIsFp32<M>)) refine_forward_kernel(GCN_PARAMS RefineTile p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  RefineBlock<M>(p, shared).forward();
}

template <class M>
__global__ void __launch_bounds__(kRefineThreads, refine_most_blocks(kIsFp32<M>))
    refine_backward_kernel(GCN_PARAMS RefineTile p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  RefineBlock<M>(p, shared).backward();
}

template <class M>
int launch_refine_forward(const RefineTile& p, int blocks, int shared_bytes, Stream s) {
  const Launch how{dim3(unsigned(blocks)), kRefineThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch(refine_forward_kernel<M>, how, p);
}

template <class M>
int launch_refine_backward(const RefineTile& p, int blocks, int shared_bytes, Stream s) {
  const Launch how{dim3(unsigned(blocks)), kRefineThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch(refine_backward_kernel<M>, how, p);
}

}  // namespace gcn::cuda
