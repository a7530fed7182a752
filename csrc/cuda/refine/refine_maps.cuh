// Maps and weights of boundary refinement on their way into shared memory and back.
//
// A pixel in shared memory is pieces of 16 bytes (RefinePixel), each in a plane of its own, [piece][row][column]: the rows of a
// fragment are neighbouring pixels, which fall on different banks wherever they start. What lies outside of the image is zero,
// and so are the padded channels: the padding of the convolution is there, and no value that is not finite meets a zero weight.
#pragma once

#include <cstring>

#include "../pixel_runs.cuh"
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
  unsigned char* origin;
  int rows, cols, row0, col0;
  int plane;  // bytes
  RefinePixel pixel;

  GCN_DEVICE int pieces() const { return pixel.whole + pixel.packed; }
  GCN_DEVICE unsigned char* at(int row, int col) const { return origin + (row * cols + col) * kPieceBytes; }
  // The first of the packed pieces starts with the pixel's own channels.
  GCN_DEVICE E* at(int row, int col, int channel) const {
    return reinterpret_cast<E*>(at(row, col) + channel / kPiece<E> * plane) + channel % kPiece<E>;
  }
};

// Where a piece of the depth of a row of taps starts, in bytes from the pixel of the first tap.
GCN_DEVICE int refine_depth_at(const RefinePixel& pixel, int piece, int plane) {
  const int dx = piece < 3 * pixel.whole ? int(piece >= pixel.whole) + int(piece >= 2 * pixel.whole) : 0;
  const int of_pixel = piece - (piece < 3 * pixel.whole ? dx : 2) * pixel.whole;
  return of_pixel * plane + dx * kPieceBytes;
}
GCN_DEVICE int refine_depth(const RefinePixel& pixel) { return 3 * pixel.whole + pixel.packed; }
constexpr int kRefineZeros = -1;  // a place: the depth is an odd number of pieces, and this is the other half of the last step

// The tap and the channel of a number of the depth; what is padding has a third tap or a channel that there is not.
struct RefineDepth {
  int dx, channel;

  GCN_DEVICE RefineDepth(const RefinePixel& pixel, int number, int of_piece) {
    const int packed = number - 3 * pixel.whole * of_piece, of_tap = packed < 0 ? pixel.whole * of_piece : max(pixel.rest, 1);
    const int within = packed < 0 ? number : packed;
    dx = packed < 0 || pixel.rest ? within / of_tap : 3;
    channel = within % of_tap + (packed < 0 ? 0 : pixel.whole * of_piece);
  }
};

// Where a tile lies.
struct RefinePlace {
  int n, row0, col0;  // of the core

  GCN_DEVICE RefinePlace(const RefineTile& p, int64_t tile) {
    // By remainders: the digits of indices.cuh take registers that the backward kernel in tf32 does not have.
    const int across = int(tile % p.tiles_w);
    const int64_t rest = tile / p.tiles_w;
    n = int(rest / p.tiles_h), row0 = int(rest % p.tiles_h) * (p.rows - 2), col0 = across * (p.cols - 2);
  }
};

// A map on its way from an image or to it, kWide pixels of a thread at a time.
template <class E, int kWide>
struct RefineImage {
  using Run = PixelRun<E, kWide>;
  using Piece = Elements<E, kPiece<E>>;

  const RefineMap<E>& map;
  const ImageRuns<E, kWide, kRefineThreads> image;

  GCN_DEVICE void load() const {
    image.for_pieces(map.pixel.whole, map.rows, map.cols, [&](int piece, int row, int col) {
      Piece values[kWide];
      image.load_pieces(values, map.row0 + row, map.col0 + col, piece * kPiece<E>);
#pragma unroll
      for (int i = 0; i < kWide; ++i) store_shared(stored(piece, row, col + i), values[i]);
    });
    const int rest = map.pixel.rest;
    if (rest == 1) load_packed<1>();
    if (rest == 2) load_packed<2>();
    if constexpr (sizeof(E) == 2) {
      if (rest == 3) load_packed<3>();
      if (rest == 4) load_packed<4>();
      if (rest == 5) load_packed<5>();
    }
  }

  // The part that starts at row0, col0, as far as it lies in the image.
  GCN_DEVICE void store(int row0, int col0, int rows, int cols) const {
    // The first of the packed pieces starts with the pixel's own channels.
    image.for_pieces(map.pixel.whole + int(map.pixel.packed > 0), rows, cols, [&](int piece, int row, int col) {
      row += row0, col += col0;
      Piece values[kWide];
#pragma unroll
      for (int i = 0; i < kWide; ++i) values[i] = load_shared(stored(piece, row, col + i));
      Run runs[kPiece<E>];
      transpose<E>(values, runs);
      image.store_runs(runs, map.row0 + row, map.col0 + col, piece * kPiece<E>);
    });
  }

 private:
  GCN_DEVICE Piece* stored(int piece, int row, int col) const {
    return reinterpret_cast<Piece*>(map.at(row, col) + piece * map.plane);
  }

  // The packed pieces, of kRest channels of three neighbours.
  template <int kRest>
  GCN_DEVICE void load_packed() const {
    constexpr int kPieces = (3 * kRest + kPiece<E> - 1) / kPiece<E>, kRuns = (kWide + 1) / kWide + 1;
#pragma unroll 1
    for (PixelWalk walk(int(threadIdx.x), kRefineThreads, map.cols / kWide); walk.row < map.rows; walk.next()) {
      const int row = walk.row, col = walk.col * kWide, at_h = map.row0 + row;
      E values[kRuns * kWide][kRest];
#pragma unroll
      for (int first = 0; first < kRuns * kWide; first += kWide) {
        const int at_w = map.col0 + col + first;
        Run runs[kRest];
        const bool inside = image.is_inside(at_h, at_w) && col + first < map.cols;
        image.load_runs(runs, at_h, at_w, map.pixel.whole * kPiece<E>, inside ? kRest : 0);
        E of_runs[kRest][kWide];
        memcpy(of_runs, runs, sizeof(runs));
#pragma unroll
        for (int c = 0; c < kRest; ++c)
#pragma unroll
          for (int i = 0; i < kWide; ++i) values[first + i][c] = of_runs[c][i];
      }
#pragma unroll
      for (int i = 0; i < kWide; ++i) {
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
          Piece part;
#pragma unroll
          for (int e = 0; e < kPiece<E>; ++e) {
            const int number = piece * kPiece<E> + e;
            part.value[e] = number < 3 * kRest ? values[i + number / kRest % 3][number % kRest] : from_float<E>(0);
          }
          store_shared(stored(map.pixel.whole + piece, row, col + i), part);
        }
      }
    }
  }
};

template <class E>
GCN_DEVICE void load_map(const RefineMap<E>& to, const StridedMap& image, int n, int channels, int h, int w) {
  if (in_runs<E, 2>(image, w)) {
    RefineImage<E, 2>{to, {image, n, channels, h, w}}.load();
  } else {
    RefineImage<E, 1>{to, {image, n, channels, h, w}}.load();
  }
}

// The part of a map that starts at row0, col0, as far as it lies in the image.
template <class E>
GCN_DEVICE void store_map(const RefineMap<E>& map, int row0, int col0, int rows, int cols, const StridedMap& image, int n,
                          int channels, int h, int w) {
  if (in_runs<E, 2>(image, w)) {
    RefineImage<E, 2>{map, {image, n, channels, h, w}}.store(row0, col0, rows, cols);
  } else {
    RefineImage<E, 1>{map, {image, n, channels, h, w}}.store(row0, col0, rows, cols);
  }
}

// Zeros behind the packed channels, which nothing else is stored to: a zero weight must not meet what is not finite.
template <class E>
GCN_DEVICE void clear_padding(const RefineMap<E>& map) {
  const int first = map.pixel.whole * kPiece<E> + 3 * map.pixel.rest, end = map.pieces() * kPiece<E>;
  for (int pixel = int(threadIdx.x); pixel < map.rows * map.cols; pixel += kRefineThreads) {
    for (int i = map.pixel.packed ? first : end; i < end; ++i) store_shared(map.at(0, pixel, i), from_float<E>(0));
  }
}

// Weights as the fragments of a product: [group][step][row of taps][8 outputs][lane][2 words]; and where the pieces of a step
// are.
template <class M>
GCN_DEVICE void load_weights(const RefineConv& conv, unsigned char* shared) {
  using E = Element<M>;
  constexpr int kOfWord = 4 / int(sizeof(E));
  const E* const weight = static_cast<const E*>(conv.weight);
  const int words = conv.groups * conv.steps * 3 * kRefineOutputBlocks * 64;
#pragma unroll 1
  for (int i = kept(int(threadIdx.x)); i < words; i += kRefineThreads) {  // not to be prepared tiles ahead, in registers
    const int lane = i >> 1 & 31, block = (i >> 6) % kRefineOutputBlocks, of_block = (i >> 6) / kRefineOutputBlocks;
    const int dy = of_block % 3, step = of_block / 3 % conv.steps, group = of_block / 3 / conv.steps;
    const int output = group * kRefineOutputs + block * 8 + (lane >> 2);
    const int depth = step * kDepth<E> + ((i & 1) * 16 + (lane & 3) * 4) / int(sizeof(E));
    RefineWord<E> word;
#pragma unroll
    for (int e = 0; e < kOfWord; ++e) {
      const RefineDepth of(conv.pixel, depth + e, kPiece<E>);
      const int tap = dy * 3 + of.dx;
      const bool there = output < conv.outputs && of.dx < 3 && of.channel < conv.inputs;
      const E* const from = weight + (output * conv.of_output + of.channel * conv.of_input + (conv.flipped ? 8 - tap : tap));
      word.value[e] = there ? *from : from_float<E>(0);
      if constexpr (kIsTf32<M>) word.value[e] = float_of(round_to_tf32(bits_of(word.value[e])));
    }
    store_shared(reinterpret_cast<RefineWord<E>*>(shared + conv.weights) + i, word);
  }
  for (int piece = int(threadIdx.x); piece < 2 * conv.steps; piece += kRefineThreads) {
    const int at = piece < refine_depth(conv.pixel) ? refine_depth_at(conv.pixel, piece, conv.plane) : kRefineZeros;
    store_shared(reinterpret_cast<int*>(shared + conv.places) + piece, at);
  }
  const E* const bias = static_cast<const E*>(conv.bias);
  for (int i = int(threadIdx.x); i < conv.groups * kRefineOutputs; i += kRefineThreads) {
    store_shared(reinterpret_cast<float*>(shared + conv.biases) + i, bias && i < conv.outputs ? float(to_float(bias[i])) : 0.0f);
  }
}

}  // namespace gcn::cuda
