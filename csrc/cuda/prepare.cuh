// Copies into the layouts that the tensor core kernels read: weights into tiles in the order of the product's depth, swizzled as
// they will lie in shared memory, and maps that are not whole 16-byte pieces into padded maps. All of an op's copies are one
// launch. Each writes every byte of its result, zeros in the padding. Bound by memory: weights 2.6 MB at 2048 channels, k = 15.
//
// The gradients of the second biases are sums of dy over its pixels. Whoever copies dy has them in hand: a thread adds up what it
// writes of its channel, a block its threads, finish.cuh the blocks.
#pragma once

#include "block_sum.cuh"
#include "fragment.cuh"
#include "tiles.h"

namespace gcn::cuda {

constexpr int kPrepareThreads = 256;

template <class M>
GCN_DEVICE Element<M> as_operand(Element<M> value) {
  if constexpr (kIsTf32<M>) {
    return float_of(round_to_tf32(bits_of(value)));
  } else {
    return value;
  }
}

// Pixels and channels in squares of 32 through shared memory: read along whichever runs through memory, written along channels.
// A block has 32 channels and every `shares`-th square along the pixels.
template <class M>
GCN_DEVICE void pack_map(const PackMap& j, int block, int blocks, unsigned char* shared) {
  using E = Element<M>;
  using A = Accumulator<E>;
  constexpr int kSide = kSquareSide, kRow = kSide + 1;
  E* square = reinterpret_cast<E*>(shared);
  const int64_t pixels = int64_t(j.n) * j.h * j.w, squares = (pixels + kSide - 1) / kSide;
  const int across = (j.padded + kSide - 1) / kSide;
  const bool along_channels = j.stride_c == 1;
  for (int part = block; part < across * j.shares; part += blocks) {
    const int share = part / across, first_channel = part % across * kSide;
    A sum = 0;  // over pixels of this thread's channel
    for (int64_t s = share; s < squares; s += j.shares) {
      const int64_t first_pixel = s * kSide;
      for (int i = threadIdx.x; i < kSide * kSide; i += kPrepareThreads) {
        const int fast = i % kSide, slow = i / kSide;
        const int64_t pixel = first_pixel + (along_channels ? slow : fast);
        const int channel = first_channel + (along_channels ? fast : slow);
        E value = from_float<E>(0);
        if (pixel < pixels && channel < j.channels) {
          const int64_t w = pixel % j.w, h = pixel / j.w % j.h, n = pixel / j.w / j.h;
          value = static_cast<const E*>(j.from)[n * j.stride_n + channel * j.stride_c + h * j.stride_h + w * j.stride_w];
        }
        store_shared(square + (along_channels ? slow * kRow + fast : fast * kRow + slow), value);
      }
      __syncthreads();
      for (int i = threadIdx.x; i < kSide * kSide; i += kPrepareThreads) {
        const int64_t pixel = first_pixel + i / kSide;
        const int channel = first_channel + i % kSide;
        const E value = load_shared(square + i / kSide * kRow + i % kSide);
        sum += to_float(value);
        if (j.to && pixel < pixels && channel < j.padded) static_cast<E*>(j.to)[pixel * j.padded + channel] = value;
      }
      __syncthreads();
    }
    if (!j.sums) continue;
    sum = sum_over_threads(sum, reinterpret_cast<A*>(shared), kPrepareThreads, kSide);
    const int channel = first_channel + int(threadIdx.x);
    if (threadIdx.x < kSide && channel < j.channels) static_cast<A*>(j.sums)[int64_t(channel) * j.shares + share] = sum;
  }
}

template <class M>
GCN_DEVICE void pack_first_weights(const PackFirstWeights& j, int64_t first, int64_t stride) {
  using E = Element<M>;
  constexpr int kBlockDepth = kBlockBytes / int(sizeof(E));
  const int64_t count = int64_t(j.groups) * j.k_blocks * j.columns * 4;  // pieces
  for (int64_t i = first; i < count; i += stride) {
    // Taps run fastest here, because neighbouring taps are neighbours in memory.
    const int at = int(i % j.columns), piece = int(i / j.columns % 4);
    const int64_t block = i / j.columns / 4;
    const int k_block = int(block % j.k_blocks), group = int(block / j.k_blocks);
    const int first_mid = group / j.tap_groups * j.group_mid, own_tap = group % j.tap_groups * j.group_taps;
    const int first_tap = j.overlap ? min(own_tap, j.taps - j.group_taps) : own_tap;
    const int taps = min(j.group_taps, j.taps - first_tap), mids = min(j.group_mid, j.mid - first_mid);
    const bool used = at < mids * taps;
    // What two groups have is halved, which loses nothing but the last bit of a float16 that is nearly zero.
    const int shared_from = j.taps - j.group_taps, shared_to = j.overlap ? (j.tap_groups - 1) * j.group_taps : 0;
    const int column = used ? at % taps * mids + at / taps : at, m = first_mid + at / taps, tap = first_tap + at % taps;
    E* to = static_cast<E*>(j.to) + (block * j.columns * 4 + swizzle_rows(column, piece)) * kPiece<E>;
    for (int k = 0; k < kPiece<E>; ++k) {
      const int channel = k_block * kBlockDepth + piece * kPiece<E> + k;
      E value = from_float<E>(0);
      if (used && channel < j.channels) {
        value = static_cast<const E*>(j.from)[(int64_t(m) * j.channels + channel) * j.kernel + j.skipped + tap];
        if (tap >= shared_from && tap < shared_to) value = from_float<E>(0.5f * to_float(value));
      }
      to[k] = as_operand<M>(value);
    }
  }
}

template <class M>
GCN_DEVICE void pack_line_weights(const PackLineWeights& j, int64_t first, int64_t stride) {
  using E = Element<M>;
  const int64_t count = int64_t(j.n_tiles) * j.phases * j.k_blocks * j.tile_outputs * 4;
  for (int64_t i = first; i < count; i += stride) {
    const int row = int(i / 4 % j.tile_outputs), piece = int(i % 4);
    const int64_t block = i / 4 / j.tile_outputs;
    const int k_block = int(block % j.k_blocks), phase = int(block / j.k_blocks % j.phases);
    const int output = int(block / j.k_blocks / j.phases) * j.tile_outputs + (j.of_lanes ? output_of_lanes(row) : row);
    // The depth of a phase: the pieces of the first term, tap by tap, then those of the second.
    int at = k_block * 4 + piece, term = 0;
    const auto pieces = [&](int t) { return max(0, min(j.chunk, j.term[t].padded - phase * j.chunk)) / kPiece<E>; };
    if (at >= j.term[0].taps * pieces(0)) at -= j.term[0].taps * pieces(0), term = 1;
    const PackLineWeights::Term& t = j.term[term];
    const bool used = output < j.outputs && term < j.terms && at < t.taps * pieces(term);
    E* to = static_cast<E*>(j.to) + (block * j.tile_outputs * 4 + swizzle_rows(row, piece)) * kPiece<E>;
    for (int k = 0; k < kPiece<E>; ++k) {
      E value = from_float<E>(0);
      if (used) {
        const int per_tap = pieces(term), tap = t.skipped + at / per_tap;
        const int input = phase * j.chunk + at % per_tap * kPiece<E> + k;
        if (input < t.inputs) {
          const int64_t from = output * t.stride_o + input * t.stride_i + (t.flip ? t.kernel - 1 - tap : tap);
          value = static_cast<const E*>(t.from)[from];
        }
      }
      to[k] = as_operand<M>(value);
    }
  }
}

// Grid: x = share of the work, y = copy.
template <class M>
__global__ void __launch_bounds__(kPrepareThreads) prepare_kernel(GCN_PARAMS PrepareParams p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const int64_t first = int64_t(blockIdx.x) * kPrepareThreads + threadIdx.x, stride = int64_t(gridDim.x) * kPrepareThreads;
  int copy = blockIdx.y;
  if (copy < p.maps) return pack_map<M>(p.map[copy], int(blockIdx.x), int(gridDim.x), shared);
  copy -= p.maps;
  if (copy < p.firsts) return pack_first_weights<M>(p.first[copy], first, stride);
  pack_line_weights<M>(p.line[copy - p.firsts], first, stride);
}

template <class M>
int launch_prepare(const PrepareParams& p, Stream s) {
  constexpr size_t kSquareBytes = kSquareSide * (kSquareSide + 1) * sizeof(Element<M>);  // more than a number of each thread
  const dim3 grid(kPrepareBlocks, p.maps + p.firsts + p.lines);
  return launch(prepare_kernel<M>, Launch{grid, kPrepareThreads, kSquareBytes, s.stream, s.dependent}, p);
}

}  // namespace gcn::cuda
