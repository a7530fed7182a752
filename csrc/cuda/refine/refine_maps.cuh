// Maps and weights of boundary refinement on their way into shared memory and back.
//
// A pixel in shared memory is pieces of 16 bytes (RefinePixel), each in a plane of its own, [piece][row][column]: the rows of a
// fragment are neighbouring pixels, which fall on different banks wherever they start. What lies outside of the image is zero,
// and so are the padded channels: the padding of the convolution is there, and no value that is not finite meets a zero weight.
#pragma once

#include <cstring>
#include <type_traits>

#include "../fragment.cuh"
#include "../pixel_walk.cuh"
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
    const int across = int(tile % p.tiles_w);
    const int64_t rest = tile / p.tiles_w;
    n = int(rest / p.tiles_h), row0 = int(rest % p.tiles_h) * (p.rows - 2), col0 = across * (p.cols - 2);
  }
};

// Neighbours in memory.
template <class E, int kWide>
struct alignas(kWide * sizeof(E)) RefineRun {
  E value[kWide];
};

// Whether two neighbouring pixels of a row, of which the first is an even one, are one access: most of what maps cost on their
// way are instructions.
template <class E>
GCN_DEVICE bool in_pairs(const StridedMap& image, int w) {
  const int64_t strides = image.stride_n | image.stride_c | image.stride_h | w;
  return image.stride_w == 1 && strides % 2 == 0 && reinterpret_cast<uintptr_t>(image.data) % (2 * sizeof(E)) == 0;
}

// Calls then(piece, row, column) for the pieces of `rows` x `cols` pixels, `wide` neighbours at a time, in the order in which
// neighbouring threads take neighbours in memory: the pieces of a pixel where channels are next to each other, else pixels.
template <class Then>
GCN_DEVICE void for_pieces(int pieces, int rows, int cols, int wide, const StridedMap& image, const Then& then) {
  const int together = wide == 1 && image.stride_c == 1 ? max(pieces, 1) : 1, tid = int(threadIdx.x);
  const int step = kRefineThreads / together;
  if (tid >= step * together) return;
#pragma unroll 1
  for (int piece = tid % together; piece < pieces; piece += together) {
#pragma unroll 1
    for (PixelWalk at(tid / together, step, cols / wide); at.row < rows; at.next()) then(piece, at.row, at.col * wide);
  }
}

// A map of an image on its way, kWide neighbouring pixels of a thread at a time.
template <class E, int kWide>
class RefineImage {
 public:
  using Run = RefineRun<E, kWide>;
  using Word = std::conditional_t<sizeof(Run) == 4, uint32_t, Run>;
  using Piece = Elements<E, kPiece<E>>;

  GCN_DEVICE RefineImage(const RefineMap<E>& map, const StridedMap& image, int n, int channels, int h, int w)
      : map(map), image(image), to_next(image.stride_c * int(sizeof(E))), channels(channels), h(h), w(w) {
    data = static_cast<unsigned char*>(const_cast<void*>(image.data)) + n * image.stride_n * int(sizeof(E));
  }

  GCN_DEVICE void load() const {
    for_pieces(map.pixel.whole, map.rows, map.cols, kWide, image, [&](int piece, int row, int col) {
      const int there = is_inside(row, col) ? channels - piece * kPiece<E> : 0;
      const unsigned char* from = at(row, col, piece * kPiece<E>);
      Word words[kPiece<E>];
#pragma unroll
      for (int e = 0; e < kPiece<E>; ++e, from += to_next) words[e] = load_word(from, e < there);
      Piece values[kWide];
      separate(values, words);
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
    for_pieces(map.pixel.whole + int(map.pixel.packed > 0), rows, cols, kWide, image, [&](int piece, int row, int col) {
      row += row0, col += col0;
      Piece values[kWide];
#pragma unroll
      for (int i = 0; i < kWide; ++i) values[i] = load_shared(stored(piece, row, col + i));
      unsigned char* to = at(row, col, piece * kPiece<E>);
#pragma unroll
      for (int e = 0; e < kPiece<E>; ++e, to += to_next) {
        Run run;
#pragma unroll
        for (int i = 0; i < kWide; ++i) run.value[i] = values[i].value[e];
        if (piece * kPiece<E> + e < channels) *reinterpret_cast<Run*>(to) = run;
      }
    });
  }

 private:
  GCN_DEVICE bool is_inside(int row, int col) const {
    return map.row0 + row >= 0 && map.row0 + row < h && map.col0 + col >= 0 && map.col0 + col < w;
  }
  GCN_DEVICE unsigned char* at(int row, int col, int channel) const {
    return data + ((map.row0 + row) * image.stride_h + (map.col0 + col) * image.stride_w) * int(sizeof(E)) + channel * to_next;
  }
  GCN_DEVICE Piece* stored(int piece, int row, int col) const {
    return reinterpret_cast<Piece*>(map.at(row, col) + piece * map.plane);
  }
  // Zeros where there is nothing.
  static GCN_DEVICE Word load_word(const unsigned char* from, bool there) {
    Word word = {};
    if (there) word = load_global(reinterpret_cast<const Word*>(from));
    return word;
  }
  static GCN_DEVICE Run run_of(const Word& word) {
    Run run;
    memcpy(&run, &word, sizeof(run));
    return run;
  }
  // A piece of each pixel, of words that are a channel each. Written so that it takes one instruction for each word.
  static GCN_DEVICE void separate(Piece (&values)[kWide], const Word (&words)[kPiece<E>]) {
    if constexpr (std::is_same_v<Word, uint32_t> && kWide == 2) {
      uint32_t parts[2][kPiece<E> / 2];
#pragma unroll
      for (int e = 0; e < kPiece<E>; e += 2) {
        parts[0][e / 2] = (words[e] & 0xffffu) | words[e + 1] << 16;
        parts[1][e / 2] = words[e] >> 16 | (words[e + 1] & 0xffff0000u);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) memcpy(&values[i], parts[i], sizeof(Piece));
    } else {
#pragma unroll
      for (int e = 0; e < kPiece<E>; ++e)
#pragma unroll
        for (int i = 0; i < kWide; ++i) values[i].value[e] = run_of(words[e]).value[i];
    }
  }

  // The packed pieces, of kRest channels of three neighbours.
  template <int kRest>
  GCN_DEVICE void load_packed() const {
    constexpr int kPieces = (3 * kRest + kPiece<E> - 1) / kPiece<E>, kRuns = (kWide + 1) / kWide + 1;
#pragma unroll 1
    for (PixelWalk walk(int(threadIdx.x), kRefineThreads, map.cols / kWide); walk.row < map.rows; walk.next()) {
      const int row = walk.row, col = walk.col * kWide;
      E values[kRuns * kWide][kRest];
#pragma unroll
      for (int first = 0; first < kRuns * kWide; first += kWide) {
        const bool there = is_inside(row, col + first) && col + first < map.cols;
        const unsigned char* from = at(row, col + first, map.pixel.whole * kPiece<E>);
#pragma unroll
        for (int c = 0; c < kRest; ++c, from += to_next) {
          const Run run = run_of(load_word(from, there));
#pragma unroll
          for (int i = 0; i < kWide; ++i) values[first + i][c] = run.value[i];
        }
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

  const RefineMap<E>& map;
  const StridedMap& image;
  const int64_t to_next;  // bytes to the next channel
  const int channels, h, w;
  unsigned char* data;
};

template <class E>
GCN_DEVICE void load_map(const RefineMap<E>& to, const StridedMap& image, int n, int channels, int h, int w) {
  if (in_pairs<E>(image, w)) {
    RefineImage<E, 2>(to, image, n, channels, h, w).load();
  } else {
    RefineImage<E, 1>(to, image, n, channels, h, w).load();
  }
}

// The part of a map that starts at row0, col0, as far as it lies in the image.
template <class E>
GCN_DEVICE void store_map(const RefineMap<E>& map, int row0, int col0, int rows, int cols, const StridedMap& image, int n,
                          int channels, int h, int w) {
  if (in_pairs<E>(image, w)) {
    RefineImage<E, 2>(map, image, n, channels, h, w).store(row0, col0, rows, cols);
  } else {
    RefineImage<E, 1>(map, image, n, channels, h, w).store(row0, col0, rows, cols);
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
