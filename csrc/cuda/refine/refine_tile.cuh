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
class RefineBlock {
 public:
  using E = Element<M>;
  using Pair = RefinePair<E>;

  GCN_DEVICE RefineBlock(const RefineTile& p, unsigned char* shared)
      : p(p), shared(shared), lane(int(threadIdx.x) % 32), warp(int(threadIdx.x) / 32) {}

  GCN_DEVICE void forward() {
    prepare();
#pragma unroll 1
    for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
      const RefinePlace place(p, tile);
      const RefineMap<E> x = around(place, 0), u = region(place);
      if (p.in_turns) load_weights<M>(p.conv[0], shared);
      load_map(x, p.maps[0], place.n, p.c, p.h, p.w);
      __syncthreads();
      middle(x, u);
      __syncthreads();
      take_turn(p.conv[1]);
      result(p.conv[1], u, x);
      __syncthreads();
      store(place, x);
      __syncthreads();
    }
  }

  GCN_DEVICE void backward() {
    prepare();
#pragma unroll 1
    for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
      const RefinePlace place(p, tile);
      const RefineMap<E> x = around(place, 0), dy = around(place, 1), u = region(place);
      const int rows = min(p.rows - 2, p.h - place.row0), cols = min(p.cols - 2, p.w - place.col0);
      const bool first = tile == blockIdx.x;
      if (p.in_turns) load_weights<M>(p.conv[0], shared);
#pragma unroll 1
      for (int i = 0; i < 2; ++i) load_map(around(place, i), p.maps[i], place.n, p.c, p.h, p.w);
      __syncthreads();
      middle(x, u);
      __syncthreads();
      gradient(p.grad[1], dy, dy.at(2, 2), u, u.at(0, 0), rows, cols, first);
      if (p.wants_du) {
        take_turn(p.conv[1]);
        __syncthreads();  // u is overwritten
        middle_gradient(dy, u);
        __syncthreads();
        gradient(p.grad[0], u, u.at(1, 1), x, x.at(1, 1), rows, cols, first);
        if (p.wants_dx) {
          take_turn(p.conv[2]);
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
    return {shared + p.u_at, p.rows, p.cols, place.row0 - 1, place.col0 - 1, p.plane_u, p.pixel_m};
  }
  GCN_DEVICE RefineMap<E> around(const RefinePlace& place, int which) const {
    return {shared + p.maps_at[which], p.rows + 2, p.cols + 2, place.row0 - 2, place.col0 - 2, p.plane_x, p.pixel_c};
  }

  // What is in shared memory as long as the block is at work. The first piece of it is zeros.
  GCN_DEVICE void prepare() const {
    if (threadIdx.x < kPieceBytes / 4) store_shared(reinterpret_cast<uint32_t*>(shared) + threadIdx.x, 0u);
    clear_padding(region(RefinePlace(p, 0)));
    if (p.in_turns) return;
#pragma unroll 1
    for (int i = 0; i < 3; ++i) {
      if (p.conv[i].weight) load_weights<M>(p.conv[i], shared);
    }
  }

  // Where weights take turns: those of a convolution, in the place of those before, which nobody reads any more.
  GCN_DEVICE void take_turn(const RefineConv& conv) const {
    if (!p.in_turns) return;
    load_weights<M>(conv, shared);
    __syncthreads();
  }

  // The sums of `conv` at a unit's outputs, whose first taps read `from` at row0, col0.
  GCN_DEVICE void convolve(RefineUnitSums& sums, const RefineConv& conv, const RefineMap<E>& from, int group, int row0,
                           int col0) const {
    start_from_biases(sums, reinterpret_cast<const float*>(shared + conv.biases) + group * kRefineOutputs, lane);
    const unsigned char* const weights = shared + conv.weights + group * conv.steps * 3 * kRefineOutputBlocks * 64 * 4;
    multiply<M>(sums, from, row0, col0, conv.steps, weights, shared + conv.places, shared, lane);
  }

  // Calls then(group, row, column) of this warp's units of `rows` rows.
  template <class Then>
  GCN_DEVICE void for_units(const RefineConv& conv, int rows, const Then& then) const {
    const int places = rows / kRefineUnitRows << p.across_log;
    int group = 0;
#pragma unroll 1
    for (int place = warp;; place += kRefineWarps) {
      for (; place >= places; place -= places) ++group;
      if (group >= conv.groups) return;
      const int row = place >> p.across_log;
      then(group, row * kRefineUnitRows, (place - (row << p.across_log)) * kRefineUnitCols);
    }
  }

  // The convolution of `from` at the region's pixels; of each output, then(its place in u, its sum) makes what is stored there.
  // A channel of the rest is stored where the two pixels before have it, too; what is left of the first column falls on places
  // of the row before that nobody reads.
  template <class Then>
  GCN_DEVICE void for_region(const RefineConv& conv, const RefineMap<E>& from, const RefineMap<E>& u, const Then& then) const {
    const int whole = u.pixel.whole * kPiece<E>, rest = u.pixel.rest, row_bytes = u.cols * kPieceBytes;
    for_units(conv, p.rows, [&](int group, int row0, int col0) {
      RefineUnitSums sums;
      convolve(sums, conv, from, group, row0, col0);
      clear_outside(sums, u, group, row0, col0);
      const int col = col0 + c_row(lane, 0);
#pragma unroll
      for (int block = 0; block < kRefineOutputBlocks; ++block) {
        const int output = group * kRefineOutputs + block * 8 + c_column(lane, 0);
        if (output < whole) {
          unsigned char* const first = reinterpret_cast<unsigned char*>(u.at(row0, col, output));
          for_pixels(sums, block, row_bytes, [&](int bytes, float sum0, float sum1) {
            Pair* const at = reinterpret_cast<Pair*>(first + bytes);
            const Pair before = load_shared(at);
            store_shared(at, Pair{then(before.value[0], sum0), then(before.value[1], sum1)});
          });
          continue;
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int of_rest = output + e - whole;
          if (of_rest >= rest) continue;
          unsigned char* const first = reinterpret_cast<unsigned char*>(u.at(row0, col, output + e));
          const int second = int(reinterpret_cast<unsigned char*>(u.at(row0, col - 1, output + e + rest)) - first);
          const int third = int(reinterpret_cast<unsigned char*>(u.at(row0, col - 2, output + e + 2 * rest)) - first);
          for_pixels(sums, block, row_bytes, [&](int bytes, float sum0, float sum1) {
            unsigned char* const at = first + bytes;
            const E value = then(load_shared(reinterpret_cast<E*>(at)), e ? sum1 : sum0);
            store_shared(reinterpret_cast<E*>(at), value);
            store_shared(reinterpret_cast<E*>(at + second), value);
            store_shared(reinterpret_cast<E*>(at + third), value);
          });
        }
      }
    });
  }

  // Sums of a unit that are outside of the image, or of padded channels, are zero.
  GCN_DEVICE void clear_outside(RefineUnitSums& sums, const RefineMap<E>& u, int group, int row0, int col0) const {
    row0 += u.row0, col0 += u.col0;
    const bool inside = row0 >= 0 && row0 + kRefineUnitRows <= p.h && col0 >= 0 && col0 + kRefineUnitCols <= p.w;
    if (inside && u.pixel.whole * kPiece<E> <= p.m) return;
#pragma unroll
    for (int j = 0; j < kRefineUnitRows; ++j)
#pragma unroll
      for (int columns = 0; columns < 2; ++columns)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = row0 + j, col = col0 + columns * 16 + c_row(lane, i);
          const bool pixel = row >= 0 && row < p.h && col >= 0 && col < p.w;
#pragma unroll
          for (int block = 0; block < kRefineOutputBlocks; ++block) {
            const bool channel = group * kRefineOutputs + block * 8 + c_column(lane, i) < p.m;
            if (!pixel || !channel) sums[j][columns][block][i] = 0;
          }
        }
  }

  GCN_DEVICE void middle(const RefineMap<E>& x, const RefineMap<E>& u) const {
    for_region(p.conv[0], x, u, [](E, float sum) { return from_float<E>(sum < 0 ? 0.0f : sum); });  // nan stays
  }

  // The lane that has a pixel's u has its du.
  GCN_DEVICE void middle_gradient(const RefineMap<E>& dy, const RefineMap<E>& u) const {
    for_region(p.conv[1], dy, u, [](E value, float sum) { return from_float<E>(to_float(value) <= 0 ? 0.0f : sum); });
  }

  // sum = sum + conv(from) + bias on the core; what is beside it, in the last columns of a row, nobody reads.
  GCN_DEVICE void result(const RefineConv& conv, const RefineMap<E>& from, const RefineMap<E>& sum) const {
    for_units(conv, p.rows - 2, [&](int group, int row0, int col0) {
      RefineUnitSums sums;
      convolve(sums, conv, from, group, row0, col0);
#pragma unroll
      for (int block = 0; block < kRefineOutputBlocks; ++block) {
        const int output = group * kRefineOutputs + block * 8 + c_column(lane, 0);
        if (output >= p.c) continue;
        unsigned char* const first = reinterpret_cast<unsigned char*>(sum.at(row0 + 2, col0 + 2 + c_row(lane, 0), output));
        for_pixels(sums, block, sum.cols * kPieceBytes, [&](int bytes, float sum0, float sum1) {
          Pair* const at = reinterpret_cast<Pair*>(first + bytes);
          const Pair before = load_shared(at);
          store_shared(at,
                       Pair{from_float<E>(to_float(before.value[0]) + sum0), from_float<E>(to_float(before.value[1]) + sum1)});
        });
      }
    });
  }

  GCN_DEVICE void store(const RefinePlace& place, const RefineMap<E>& from) const {
    store_map(from, 2, 2, min(p.rows - 2, p.h - place.row0), min(p.cols - 2, p.w - place.col0), p.out, place.n, p.c, p.h, p.w);
  }

  GCN_DEVICE void gradient(const RefineGrad& g, const RefineMap<E>& a, const unsigned char* a_first, const RefineMap<E>& b,
                           const unsigned char* b_first, int rows, int cols, bool first) const {
    if (!g.weight && !g.bias) return;
#pragma unroll 1
    for (int unit = warp; unit < (g.windows + 1) * g.groups; unit += kRefineWarps) {
      const RefineGradUnit of(g, unit);
      RefineGradSums sums = {};
      if (of.is_bias) {
        add_up_bias<M>(sums, of.group, a, a_first, rows, cols, lane);
      } else {
        add_up<M>(sums, of, a, a_first, b, b_first, rows, cols, lane);
      }
      float* const to = p.partial + (int64_t(blockIdx.x) * p.units + g.first + unit) * (kRefineSums * 32) + lane;
#pragma unroll
      for (int i = 0; i < kRefineSums; ++i) {
        const float sum = sums[i / 4 / kRefineOutputBlocks][i / 4 % kRefineOutputBlocks][i % 4];
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
