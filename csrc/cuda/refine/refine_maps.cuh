// Maps and weights of boundary refinement on their way into shared memory and back.
//
// A pixel in shared memory is whole pieces of 16 bytes, an odd number of them in 16 bits: rows of fragments, which are
// neighbouring pixels, then fall on different banks. What lies outside of the image is zero, and so are the padded channels:
// the padding of the convolution is there, and no value that is not finite meets a zero weight.
#pragma once

#include "../fragment.cuh"
#include "refine_kernels.h"

namespace gcn::cuda {

template <class E>
struct alignas(2 * sizeof(E)) RefinePair {
  E value[2];
};

// A register of an operand.
template <class E>
struct alignas(4) RefineWord {
  E value[4 / sizeof(E)];
};

// A map in shared memory; its first pixel is row0, col0 of the image.
template <class E>
struct RefineMap {
  E* data;
  int rows, cols, pixel, row0, col0;

  GCN_DEVICE E* at(int row, int col) const { return data + (row * cols + col) * pixel; }
};

// Where a tile lies.
struct RefinePlace {
  int n, row0, col0;  // of the core

  GCN_DEVICE RefinePlace(const RefineTile& p, int64_t tile) {
    const int across = int(tile % p.tiles_w);
    const int64_t rest = tile / p.tiles_w;
    n = int(rest / p.tiles_h), row0 = int(rest % p.tiles_h) * (p.rows - 2), col0 = across * (p.cols - 2);
  }
};

// The pieces of a part of a map, in the order in which neighbouring threads take neighbours in memory: channels first where they
// are next to each other, else pixels.
template <class E>
struct RefinePieces {
  int pieces, cols, pixels;
  bool channels_first;

  GCN_DEVICE RefinePieces(const RefineMap<E>& map, int rows, int cols, const StridedMap& image)
      : pieces(map.pixel / kPiece<E>), cols(cols), pixels(rows * cols), channels_first(image.stride_c == 1) {}
  GCN_DEVICE int count() const { return pieces * pixels; }
  GCN_DEVICE void find(int task, int& channel, int& row, int& col) const {
    const int piece = channels_first ? task % pieces : task / pixels;
    const int place = channels_first ? task / pieces : task % pixels;
    channel = piece * kPiece<E>, row = place / cols, col = place % cols;
  }
};

template <class E>
GCN_DEVICE void load_map(const RefineMap<E>& to, const StridedMap& image, int n, int channels, int h, int w) {
  const RefinePieces<E> pieces(to, to.rows, to.cols, image);
  const E* const data = static_cast<const E*>(image.data) + n * image.stride_n;
#pragma unroll 1
  for (int task = int(threadIdx.x); task < pieces.count(); task += kRefineThreads) {
    int channel, row, col;
    pieces.find(task, channel, row, col);
    const int at_h = to.row0 + row, at_w = to.col0 + col;
    const bool inside = at_h >= 0 && at_h < h && at_w >= 0 && at_w < w;
    const E* const from = data + (at_h * image.stride_h + at_w * image.stride_w + channel * image.stride_c);
    Elements<E, kPiece<E>> piece;
#pragma unroll
    for (int e = 0; e < kPiece<E>; ++e) {
      piece.value[e] = inside && channel + e < channels ? from[e * image.stride_c] : from_float<E>(0);
    }
    store_shared(reinterpret_cast<Elements<E, kPiece<E>>*>(to.at(row, col) + channel), piece);
  }
}

// The part of a map that starts at `core`, as far as it lies in the image.
template <class E>
GCN_DEVICE void store_map(const RefineMap<E>& core, int rows, int cols, const StridedMap& image, int n, int channels) {
  const RefinePieces<E> pieces(core, rows, cols, image);
  E* const data = static_cast<E*>(const_cast<void*>(image.data)) + n * image.stride_n;
#pragma unroll 1
  for (int task = int(threadIdx.x); task < pieces.count(); task += kRefineThreads) {
    int channel, row, col;
    pieces.find(task, channel, row, col);
    const auto piece = load_shared(reinterpret_cast<const Elements<E, kPiece<E>>*>(core.at(row, col) + channel));
    E* const to = data + ((core.row0 + row) * image.stride_h + (core.col0 + col) * image.stride_w + channel * image.stride_c);
#pragma unroll
    for (int e = 0; e < kPiece<E>; ++e) {
      if (channel + e < channels) to[e * image.stride_c] = piece.value[e];
    }
  }
}

// Weights as the fragments of a product: [group][step][row of taps][8 outputs][lane][2 words]. The depth of a step runs through
// the channels of three neighbouring pixels, `pixel` elements each.
template <class M>
GCN_DEVICE void load_weights(const RefineConv& conv, int pixel, unsigned char* shared) {
  using E = Element<M>;
  constexpr int kOfWord = 4 / int(sizeof(E));
  const E* const weight = static_cast<const E*>(conv.weight);
  const int words = conv.groups * conv.steps * 3 * kRefineOutputBlocks * 64;
#pragma unroll 1
  for (int i = int(threadIdx.x); i < words; i += kRefineThreads) {
    const int lane = i >> 1 & 31, block = (i >> 6) % kRefineOutputBlocks, of_block = (i >> 6) / kRefineOutputBlocks;
    const int dy = of_block % 3, step = of_block / 3 % conv.steps, group = of_block / 3 / conv.steps;
    const int output = group * kRefineOutputs + block * 8 + (lane >> 2);
    const int depth = step * kDepth<E> + ((i & 1) * 16 + (lane & 3) * 4) / int(sizeof(E));
    const int dx = depth / pixel, input = depth % pixel, tap = dy * 3 + dx;
    const E* const from = weight + (output * conv.of_output + input * conv.of_input + (conv.flipped ? 8 - tap : tap));
    RefineWord<E> word;
#pragma unroll
    for (int e = 0; e < kOfWord; ++e) {
      const bool there = output < conv.outputs && dx < 3 && input + e < conv.inputs;
      word.value[e] = there ? from[e * conv.of_input] : from_float<E>(0);
      if constexpr (kIsTf32<M>) word.value[e] = float_of(round_to_tf32(bits_of(word.value[e])));
    }
    store_shared(reinterpret_cast<RefineWord<E>*>(shared + conv.weights) + i, word);
  }
  const E* const bias = static_cast<const E*>(conv.bias);
  for (int i = int(threadIdx.x); i < conv.groups * kRefineOutputs; i += kRefineThreads) {
    store_shared(reinterpret_cast<float*>(shared + conv.biases) + i, bias && i < conv.outputs ? float(to_float(bias[i])) : 0.0f);
  }
}

}  // namespace gcn::cuda
