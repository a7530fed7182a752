// Maps of the doubling on their way into shared memory and back.
//
// A pixel in shared memory is pieces of 16 bytes, each in a plane of its own, [piece][row][column]: what a warp reads,
// neighbouring pixels, falls on different banks wherever it starts. A map of twice the size is its four phases,
// [phase][piece][row][column]. What lies outside of an image is zero, and so are the padded channels.
#pragma once

#include <cstring>

#include "../pixel_runs.cuh"
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
    Digits digits{tile};
    col0 = digits.next(p.tiles_w) * p.cols, row0 = digits.next(p.tiles_h) * p.rows, n = int(digits.rest);
    rows = min(p.rows, p.h - row0), cols = min(p.cols, p.w - col0);
  }
};

// A map on its way from an image or to it, kWide pixels of a thread at a time. kDoubled: of the size of y, in phases.
template <class E, bool kDoubled, int kWide>
struct UpsampleImage {
  using Image = ImageRuns<E, kWide, kUpsampleThreads>;
  using Run = PixelRun<E, kWide>;
  using Piece = Elements<E, kPiece<E>>;
  static constexpr int kScale = kDoubled ? 2 : 1;

  const UpsampleMap<E>& map;
  const Image image;

  GCN_DEVICE void load() const {
    image.for_pieces(map.pieces, kScale * map.rows, kScale * map.cols, [&](int piece, int row, int col) {
      Piece values[kWide];
      image.load_pieces(values, kScale * map.row0 + row, kScale * map.col0 + col, piece * kPiece<E>);
#pragma unroll
      for (int i = 0; i < kWide; ++i) store_shared(stored(piece, row, col + i), values[i]);
    });
  }

  // As much of the map as is in the image, to the channels from `first` on. Where there is data to add, it is added to numbers
  // that have been rounded, and the sum is rounded again: as two operations of PyTorch's do.
  GCN_DEVICE void store(int first, const StridedMap& add) const {
    const int rows = min(kScale * map.rows, image.h - kScale * map.row0);
    const int cols = min(kScale * map.cols, image.w - kScale * map.col0);
    const Image to_add{add, image.n, image.channels, image.h, image.w};
    image.for_pieces(map.pieces, rows, cols, [&](int piece, int row, int col) {
      Piece values[kWide];
#pragma unroll
      for (int i = 0; i < kWide; ++i) values[i] = load_shared(stored(piece, row, col + i));
      const int at_h = kScale * map.row0 + row, at_w = kScale * map.col0 + col, channel = first + piece * kPiece<E>;
      Run runs[kPiece<E>];
      transpose<E>(values, runs);
      if (add.data) {
        Run others[kPiece<E>];
        to_add.load_runs(others, at_h, at_w, channel, image.channels - channel);
        add_to(runs, others);
      }
      image.store_runs(runs, at_h, at_w, channel);
    });
  }

 private:
  GCN_DEVICE Piece* stored(int piece, int row, int col) const {
    if constexpr (!kDoubled) return reinterpret_cast<Piece*>(map.at(0, piece, row, col));
    return reinterpret_cast<Piece*>(map.at((row & 1) * 2 + (col & 1), piece, row >> 1, col >> 1));
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
};

// Columns of the map start at a multiple of two.
template <bool kDoubled, class E>
GCN_DEVICE void load_image(const UpsampleMap<E>& to, const StridedMap& image, int n, int channels, int h, int w) {
  if (kDoubled && in_runs<E, 4>(image, w)) {
    UpsampleImage<E, kDoubled, kDoubled ? 4 : 2>{to, {image, n, channels, h, w}}.load();
  } else if (in_runs<E, 2>(image, w)) {
    UpsampleImage<E, kDoubled, 2>{to, {image, n, channels, h, w}}.load();
  } else {
    UpsampleImage<E, kDoubled, 1>{to, {image, n, channels, h, w}}.load();
  }
}

template <bool kDoubled, class E>
GCN_DEVICE void store_image(const UpsampleMap<E>& map, int first, const StridedMap& image, const StridedMap& add, int n,
                            int channels, int h, int w) {
  if (kDoubled && in_runs<E, 4>(image, w) && (!add.data || in_runs<E, 4>(add, w))) {
    UpsampleImage<E, kDoubled, kDoubled ? 4 : 2>{map, {image, n, channels, h, w}}.store(first, add);
  } else if (in_runs<E, 2>(image, w) && (!add.data || in_runs<E, 2>(add, w))) {
    UpsampleImage<E, kDoubled, 2>{map, {image, n, channels, h, w}}.store(first, add);
  } else {
    UpsampleImage<E, kDoubled, 1>{map, {image, n, channels, h, w}}.store(first, add);
  }
}

}  // namespace gcn::cuda
