// The doubling in one launch, forward or backward, on tiles in shared memory (upsample_kernels.h). Products are the tensor cores'
// in 16 bits, else multiply-adds.
//
//   forward    load x | of each group of outputs: y, a unit of a phase at a time | store y, with what is added
//   backward   load x, dy | sums for the weights and the bias; of each group of channels: dx, all phases of dy | store dx
//
// with a barrier at each |. A block carries out tile after tile. The weights of one group stay in shared memory; those of several
// take turns. The sums of its tiles are one part, which upsample_finish.cuh adds to those of other blocks. Threads add to sums of
// their own in device memory, which stay in L2.
//
// In device memory x, dy and what is added are read once, with halos mostly from L2, and results are written once.
#pragma once

#include <type_traits>

#include "upsample_multiply_add.cuh"
#include "upsample_products.cuh"

namespace gcn::cuda {

template <class E>
using UpsampleProducts = std::conditional_t<sizeof(E) == 2, UpsampleTensorCores<E>, UpsampleMultiplyAdds<E>>;

template <class E>
class UpsampleBlock {
 public:
  using Products = UpsampleProducts<E>;
  using A = Accumulator<E>;

  GCN_DEVICE UpsampleBlock(const UpsampleTile& p, unsigned char* shared)
      : p(p), shared(shared), lane(int(threadIdx.x) % 32), warp(int(threadIdx.x) / 32) {}

  GCN_DEVICE void forward() {
    if (p.conv.groups == 1) load_weights(0);  // they stay
#pragma unroll 1
    for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
      const UpsamplePlace place(p, tile);
      const UpsampleMap<E> x = around(place, p.x_at, p.pieces_x), y = staged(place);
      load_image<false>(x, p.x, place.n, p.c, p.h, p.w);
#pragma unroll 1
      for (int group = 0; group < p.conv.groups; ++group) {
        take_turn(group);
        __syncthreads();
        for_units<4, kUpsampleUnitRows>([&](int phase, int row, int col, int of_group) {
          typename Products::template Sums<kUpsampleUnitRows> sums;
          const A* const biases = reinterpret_cast<const A*>(shared + p.conv.biases) + of_group;
          Products::start_from(sums, biases, lane);
          Products::multiply(sums, p.conv, phase, x, 0, row + kUpsampleHaloRows, col + kUpsampleHaloCols, of_group, shared, lane);
          Products::stage(sums, y, phase, row, col, of_group, lane);
        });
        __syncthreads();
        store_image<true>(y, group * p.conv.of_group, p.out, p.add, place.n, p.o, p.yh, p.yw);
      }
    }
  }

  GCN_DEVICE void backward() {
    if (p.conv.groups == 1) load_weights(0);  // they stay
#pragma unroll 1
    for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
      const UpsamplePlace place(p, tile);
      const UpsampleMap<E> x = around(place, p.x_at, p.pieces_x), dy = around(place, p.dy_at, p.pieces_y);
      const bool is_first = tile == blockIdx.x;
      if (p.wants_dw) load_image<false>(x, p.x, place.n, p.c, p.h, p.w);
      load_image<true>(dy, p.dy, place.n, p.o, p.yh, p.yw);
      __syncthreads();
      if (p.wants_dw) Products::add_up(p, place, x, dy, is_first);
      if (p.wants_db) add_up_bias(place, dy, is_first);
      if (p.wants_dx) gradient(place, dy);
      __syncthreads();
    }
  }

 private:
  // A tile with what lies around it, and a tile that is on its way to memory, of a group of outputs.
  GCN_DEVICE UpsampleMap<E> around(const UpsamplePlace& place, int at, int pieces) const {
    return {shared + at,
            p.rows + 2 * kUpsampleHaloRows,
            p.cols + 2 * kUpsampleHaloCols,
            place.row0 - kUpsampleHaloRows,
            place.col0 - kUpsampleHaloCols,
            p.plane,
            pieces};
  }
  GCN_DEVICE UpsampleMap<E> staged(const UpsamplePlace& place) const {
    return {shared + p.out_at, p.rows, p.cols, place.row0, place.col0, p.plane_out, p.conv.of_group / kPiece<E>};
  }

  // The weights of a group in the place of those before, which nobody reads any more.
  GCN_DEVICE void take_turn(int group) const {
    if (p.conv.groups > 1) load_weights(group);
  }

  GCN_DEVICE void load_weights(int group) const {
    if (!p.conv.weight) return;
    Products::load_weights(p.conv, group, shared);
    for (int i = int(threadIdx.x); i < p.conv.of_group; i += kUpsampleThreads) {
      const int output = group * p.conv.of_group + i;
      const bool there = p.conv.bias && output < p.conv.outputs;
      store_shared(reinterpret_cast<A*>(shared + p.conv.biases) + i,
                   there ? A(to_float(static_cast<const E*>(p.conv.bias)[output])) : A(0));
    }
  }

  // Calls then(phase, row, column, first output of the group) of this warp's units of a tile.
  template <int kPhases, int kRows, class Then>
  GCN_DEVICE void for_units(const Then& then) const {
    const int across_log = p.cols_log - 5, down_log = p.rows_log - kRows / 2;
    const int places = kPhases << (across_log + down_log), units = p.conv.of_group / Products::kUnitOutputs;
#pragma unroll 1
    for (int unit = warp; unit < units * places; unit += kUpsampleWarps) {
      const int place = unit / kPhases, row = place >> across_log;
      then(unit % kPhases, (row & ((1 << down_log) - 1)) * kRows, (place & ((1 << across_log) - 1)) * kUpsampleUnitCols,
           (row >> down_log) * Products::kUnitOutputs);
    }
  }

  GCN_DEVICE void gradient(const UpsamplePlace& place, const UpsampleMap<E>& dy) const {
    const UpsampleMap<E> dx = staged(place);
#pragma unroll 1
    for (int group = 0; group < p.conv.groups; ++group) {
      take_turn(group);
      if (p.conv.groups > 1) __syncthreads();
      for_units<1, 1>([&](int, int row, int col, int of_group) {
        typename Products::template Sums<1> sums = {};
#pragma unroll 1
        for (int phase = 0; phase < 4; ++phase) {
          Products::multiply(sums, p.conv, phase, dy, phase, row + kUpsampleHaloRows, col + kUpsampleHaloCols, of_group, shared,
                             lane);
        }
        Products::stage(sums, dx, 0, row, col, of_group, lane);
      });
      __syncthreads();
      store_image<false>(dx, group * p.conv.of_group, p.out, StridedMap{}, place.n, p.c, p.h, p.w);
    }
  }

  // The sums of dy itself, of a piece of channels a warp.
  GCN_DEVICE void add_up_bias(const UpsamplePlace& place, const UpsampleMap<E>& dy, bool is_first) const {
    using Piece = Elements<E, kPiece<E>>;
    A* const own = static_cast<A*>(p.partial_bias) + int64_t(blockIdx.x) * p.o_padded;
#pragma unroll 1
    for (int piece = warp; piece < dy.pieces; piece += kUpsampleWarps) {
      A sums[kPiece<E>] = {};
#pragma unroll 1
      for (int row = 0; row < 4 * place.rows; ++row) {
        const unsigned char* const pixel = dy.at(row & 3, piece, kUpsampleHaloRows + (row >> 2), kUpsampleHaloCols);
        for (int col = lane; col < place.cols; col += 32) {
          const Piece values = load_shared(reinterpret_cast<const Piece*>(pixel) + col);
#pragma unroll
          for (int e = 0; e < kPiece<E>; ++e) sums[e] += A(to_float(values.value[e]));
        }
      }
#pragma unroll
      for (int e = 0; e < kPiece<E>; ++e) {
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) sums[e] += shuffle_xor(sums[e], distance);
      }
      if (lane != 0) continue;
#pragma unroll
      for (int e = 0; e < kPiece<E>; ++e) {
        A& sum = own[piece * kPiece<E> + e];
        sum = is_first ? sums[e] : sum + sums[e];
      }
    }
  }

  const UpsampleTile& p;
  unsigned char* const shared;
  const int lane, warp;
};

template <class E>
__global__ void __launch_bounds__(kUpsampleThreads, kUpsampleMostBlocks) upsample_forward_kernel(GCN_PARAMS UpsampleTile p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  UpsampleBlock<E>(p, shared).forward();
}

template <class E>
__global__ void __launch_bounds__(kUpsampleThreads, kUpsampleMostBlocks) upsample_backward_kernel(GCN_PARAMS UpsampleTile p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  UpsampleBlock<E>(p, shared).backward();
}

template <class E>
int launch_upsample_forward(const UpsampleTile& p, int blocks, int shared_bytes, Stream s) {
  const Launch how{dim3(unsigned(blocks)), kUpsampleThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch(upsample_forward_kernel<E>, how, p);
}

template <class E>
int launch_upsample_backward(const UpsampleTile& p, int blocks, int shared_bytes, Stream s) {
  const Launch how{dim3(unsigned(blocks)), kUpsampleThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch(upsample_backward_kernel<E>, how, p);
}

}  // namespace gcn::cuda
