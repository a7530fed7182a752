// Maps of the doubling on their way into shared memory and back.
//
// A pixel in shared memory is pieces of 16 bytes, each in a plane of its own, [piece][row][column]: what a warp reads,
// neighbouring pixels, falls on different banks wherever it starts. A map of twice the size is its four phases,
// [phase][piece][row][column]. What lies outside of an image is zero, and so are the padded channels.
#pragma once

#include <cstring>
#include <type_traits>

#include "../fragment.cuh"
#include "../pixel_walk.cuh"
#include "upsample_kernels.h"

namespace gcn::cuda {

// The taps of a phase along an axis: windows of the map that is read start at `first` and go on pixel by pixel.
struct UpsampleTaps {
  int count, first;
};
// `turned`: of the gradient of x, which reads a phase of dy.
GCN_DEVICE UpsampleTaps upsample_taps(int k, int phase, bool turned) {
  const int count = k == 4 || (k == 3 && phase == 1) ? 2 : 1, first = k == 4 && phase == 0 ? -1 : 0;
  return {count, turned ? 1 - first - count : first};
}
// The tap of the kernel for window `window` of those.
GCN_DEVICE int upsample_tap(int k, int phase, bool turned, int window) {
  const int shift = upsample_taps(k, phase, turned).first + window;
  return phase + (k > 2 ? 1 : 0) + (turned ? 2 : -2) * shift;
}

// A map in shared memory, or four phases; its first pixel is row0, col0 of x.
template <class E>
struct UpsampleMap {
  unsigned char* origin;
  int rows, cols, row0, col0;
  int plane, pieces;

  GCN_DEVICE unsigned char* at(int phase, int piece, int row, int col) const {
    return origin + (phase * pieces + piece) * plane + (row * cols + col) * kPieceBytes;
  }
};

// Where a tile lies, and as much of it as is in the image.
struct UpsamplePlace {
  int n, row0, col0, rows, cols;

  GCN_DEVICE UpsamplePlace(const UpsampleTile& p, int64_t tile) {
    const int across = int(tile % p.tiles_w);
    const int64_t rest = tile / p.tiles_w;
    n = int(rest / p.tiles_h), row0 = int(rest % p.tiles_h) * p.rows, col0 = across * p.cols;
    rows = min(p.rows, p.h - row0), cols = min(p.cols, p.w - col0);
  }
};

// Neighbours of a row in memory, as words where they are any.
template <class E, int kWide>
struct alignas(kWide * sizeof(E)) UpsampleRun {
  using Word = std::conditional_t<kWide * sizeof(E) % 4 == 0, uint32_t, E>;
  Word word[kWide * sizeof(E) / sizeof(Word)];
};

// How many neighbours of a row, of which the first is a multiple of so many, are one access: most of what maps cost on their way
// are instructions.
template <class E>
GCN_DEVICE int upsample_wide(const StridedMap& image, int w) {
  const int64_t strides = image.stride_n | image.stride_c | image.stride_h | w;
  const uintptr_t start = reinterpret_cast<uintptr_t>(image.data) / sizeof(E);
  if (image.stride_w != 1) return 1;
  return strides % 4 == 0 && start % 4 == 0 ? 4 : strides % 2 == 0 && start % 2 == 0 ? 2 : 1;
}

// From runs of as many channels as a piece has to pieces of as many pixels as a run has, or back. Of 16 bits written so that it
// takes one instruction for two numbers.
template <class E, class From, class To, int kFrom, int kTo>
GCN_DEVICE void transpose(const From (&from)[kFrom], To (&to)[kTo]) {
  if constexpr (sizeof(E) == 2 && kFrom % 2 == 0 && kTo % 2 == 0) {
    uint32_t in[kFrom][kTo / 2], out[kTo][kFrom / 2];
    memcpy(in, from, sizeof(in));
#pragma unroll
    for (int i = 0; i < kFrom; i += 2)
#pragma unroll
      for (int j = 0; j < kTo; j += 2) {
        out[j][i / 2] = (in[i][j / 2] & 0xffffu) | in[i + 1][j / 2] << 16;
        out[j + 1][i / 2] = in[i][j / 2] >> 16 | (in[i + 1][j / 2] & 0xffff0000u);
      }
    memcpy(to, out, sizeof(out));
  } else {
    E in[kFrom][kTo], out[kTo][kFrom];
    memcpy(in, from, sizeof(in));
#pragma unroll
    for (int i = 0; i < kFrom; ++i)
#pragma unroll
      for (int j = 0; j < kTo; ++j) out[j][i] = in[i][j];
    memcpy(to, out, sizeof(out));
  }
}

// An image of `channels` x h x w on its way, kWide neighbours of a thread at a time. kDoubled: of the size of y, in phases.
template <class E, bool kDoubled, int kWide>
class UpsampleImage {
 public:
  using Run = UpsampleRun<E, kWide>;
  using Piece = Elements<E, kPiece<E>>;

  GCN_DEVICE UpsampleImage(const UpsampleMap<E>& map, const StridedMap& image, int n, int channels, int h, int w)
      : map(map), image(image), to_next(image.stride_c * int64_t(sizeof(E))), n(n), channels(channels), h(h), w(w) {}

  GCN_DEVICE void load() const {
    for_pieces(kScale * map.rows, kScale * map.cols, [&](int piece, int row, int col) {
      const int at_h = kScale * map.row0 + row, at_w = kScale * map.col0 + col;
      const bool inside = at_h >= 0 && at_h < h && at_w >= 0 && at_w < w;
      Run runs[kPiece<E>];
      load_runs(runs, address(image, at_h, at_w, piece * kPiece<E>), to_next, inside ? channels - piece * kPiece<E> : 0);
      Piece values[kWide];
      transpose<E>(runs, values);
#pragma unroll
      for (int i = 0; i < kWide; ++i) store_shared(stored(piece, row, col + i), values[i]);
    });
  }

  // As much of the map as is in the image, to the channels from `first` on. Where there is data to add, it is added to numbers
  // that have been rounded, and the sum is rounded again: as two operations of PyTorch's do.
  GCN_DEVICE void store(int first, const StridedMap& add) const {
    const int rows = min(kScale * map.rows, h - kScale * map.row0), cols = min(kScale * map.cols, w - kScale * map.col0);
    for_pieces(rows, cols, [&](int piece, int row, int col) {
      Piece values[kWide];
#pragma unroll
      for (int i = 0; i < kWide; ++i) values[i] = load_shared(stored(piece, row, col + i));
      const int at_h = kScale * map.row0 + row, at_w = kScale * map.col0 + col, channel = first + piece * kPiece<E>;
      Run runs[kPiece<E>];
      transpose<E>(values, runs);
      if (add.data) {
        Run others[kPiece<E>];
        load_runs(others, address(add, at_h, at_w, channel), add.stride_c * int64_t(sizeof(E)), channels - channel);
        add_to(runs, others);
      }
      unsigned char* to_image = address(image, at_h, at_w, channel);
#pragma unroll
      for (int e = 0; e < kPiece<E>; ++e, to_image += to_next) {
        if (channel + e < channels) store_global(reinterpret_cast<Run*>(to_image), runs[e]);
      }
    });
  }

 private:
  static constexpr int kScale = kDoubled ? 2 : 1;

  // Calls then(piece, row, column) for the pieces of `rows` x `cols` pixels, kWide neighbours at a time, in the order in which
  // neighbouring threads take neighbours in memory: the pieces of a pixel where channels are next to each other, else pixels.
  template <class Then>
  GCN_DEVICE void for_pieces(int rows, int cols, const Then& then) const {
    const int together = kWide == 1 && image.stride_c == 1 ? min(map.pieces, kUpsampleThreads) : 1, tid = int(threadIdx.x);
    const int step = kUpsampleThreads / together;
    if (tid >= step * together) return;
#pragma unroll 1
    for (int piece = tid % together; piece < map.pieces; piece += together) {
#pragma unroll 1
      for (PixelWalk at(tid / together, step, cols / kWide); at.row < rows; at.next()) then(piece, at.row, at.col * kWide);
    }
  }
  GCN_DEVICE unsigned char* address(const StridedMap& of, int at_h, int at_w, int channel) const {
    const int64_t offset = n * of.stride_n + channel * of.stride_c + at_h * of.stride_h + at_w * of.stride_w;
    return static_cast<unsigned char*>(const_cast<void*>(of.data)) + offset * int64_t(sizeof(E));
  }
  GCN_DEVICE Piece* stored(int piece, int row, int col) const {
    if constexpr (!kDoubled) return reinterpret_cast<Piece*>(map.at(0, piece, row, col));
    return reinterpret_cast<Piece*>(map.at((row & 1) * 2 + (col & 1), piece, row >> 1, col >> 1));
  }
  // Of the channels of a piece, of which so many are there; zeros of the others.
  static GCN_DEVICE void load_runs(Run (&runs)[kPiece<E>], const unsigned char* next_channel, int64_t to_next, int there) {
#pragma unroll
    for (int e = 0; e < kPiece<E>; ++e, next_channel += to_next) {
      runs[e] = {};
      if (e < there) runs[e] = load_global(reinterpret_cast<const Run*>(next_channel));
    }
  }

  static GCN_DEVICE void add_to(Run (&runs)[kPiece<E>], const Run (&others)[kPiece<E>]) {
    E sums[kPiece<E>][kWide], added[kPiece<E>][kWide];
    memcpy(sums, runs, sizeof(sums)), memcpy(added, others, sizeof(added));
#pragma unroll
    for (int e = 0; e < kPiece<E>; ++e)
#pragma unroll
      for (int i = 0; i < kWide; ++i) sums[e][i] = from_float<E>(to_float(added[e][i]) + to_float(sums[e][i]));
    memcpy(runs, sums, sizeof(sums));
  }

  const UpsampleMap<E>& map;
  const StridedMap& image;
  const int64_t to_next;  // bytes to the next channel
  const int n, channels, h, w;
};

// Columns of the map start at a multiple of two.
template <bool kDoubled, class E>
GCN_DEVICE void load_image(const UpsampleMap<E>& to, const StridedMap& image, int n, int channels, int h, int w) {
  const int wide = upsample_wide<E>(image, w);
  if (kDoubled && wide == 4) {
    UpsampleImage<E, kDoubled, kDoubled ? 4 : 2>(to, image, n, channels, h, w).load();
  } else if (wide >= 2) {
    UpsampleImage<E, kDoubled, 2>(to, image, n, channels, h, w).load();
  } else {
    UpsampleImage<E, kDoubled, 1>(to, image, n, channels, h, w).load();
  }
}

template <bool kDoubled, class E>
GCN_DEVICE void store_image(const UpsampleMap<E>& map, int first, const StridedMap& image, const StridedMap& add, int n,
                            int channels, int h, int w) {
  const int wide = add.data ? min(upsample_wide<E>(image, w), upsample_wide<E>(add, w)) : upsample_wide<E>(image, w);
  if (kDoubled && wide == 4) {
    UpsampleImage<E, kDoubled, kDoubled ? 4 : 2>(map, image, n, channels, h, w).store(first, add);
  } else if (wide >= 2) {
    UpsampleImage<E, kDoubled, 2>(map, image, n, channels, h, w).store(first, add);
  } else {
    UpsampleImage<E, kDoubled, 1>(map, image, n, channels, h, w).store(first, add);
  }
}

}  // namespace gcn::cuda
