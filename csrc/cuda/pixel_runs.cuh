// Maps of any strides in device memory, as kernels with tiles in shared memory read and write them. A thread takes a piece, which
// is 16 bytes of channels, of each of kWide neighbouring pixels at a time: from memory as runs, one for each channel, of these
// pixels. Most of what maps cost on their way are instructions, and a run is one access.
#pragma once

#include <cstring>
#include <type_traits>

#include "fragment.cuh"
#include "indices.cuh"

namespace gcn::cuda {

// Neighbours of a row in memory, as words where they are any.
template <class E, int kWide>
struct alignas(kWide * sizeof(E)) PixelRun {
  using Word = std::conditional_t<kWide * sizeof(E) % 4 == 0, uint32_t, E>;
  Word word[kWide * sizeof(E) / sizeof(Word)];
};

// Whether kWide neighbours of a row of `w` pixels are a run wherever the first is a multiple of so many.
template <class E, int kWide>
GCN_DEVICE bool in_runs(const StridedMap& map, int w) {
  const int64_t strides = map.stride_n | map.stride_c | map.stride_h | w;
  return map.stride_w == 1 && strides % kWide == 0 && reinterpret_cast<uintptr_t>(map.data) % (kWide * sizeof(E)) == 0;
}

// From runs of as many channels as a piece has to pieces of as many pixels as a run has, or back. To pieces of 16 bits it is
// written so that the compiler takes one instruction for two numbers, which it finds by itself on the way back.
template <class E, class From, class To, int kFrom, int kTo>
GCN_DEVICE void transpose(const From (&from)[kFrom], To (&to)[kTo]) {
  if constexpr (sizeof(E) == 2 && kFrom > kTo && kTo % 2 == 0) {
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

// An image of `channels` x h x w of a map, on its way to a block of kThreads or from it.
template <class E, int kWide, int kThreads>
struct ImageRuns {
  using Run = PixelRun<E, kWide>;
  using Piece = Elements<E, kPiece<E>>;

  GCN_DEVICE ImageRuns(const StridedMap& map, int n, int channels, int h, int w)
      : map(map),
        data(static_cast<unsigned char*>(const_cast<void*>(map.data)) + n * map.stride_n * int64_t(sizeof(E))),
        to_next(map.stride_c * int64_t(sizeof(E))),
        n(n),
        channels(channels),
        h(h),
        w(w) {}

  const StridedMap& map;
  unsigned char* const data;
  const int64_t to_next;  // bytes to the next channel
  const int n, channels, h, w;

  GCN_DEVICE bool is_inside(int row, int col) const { return row >= 0 && row < h && col >= 0 && col < w; }

  // The pieces that start at `channel` of kWide pixels; zeros outside of the image and where there are no channels.
  GCN_DEVICE void load_pieces(Piece (&pieces)[kWide], int row, int col, int channel) const {
    Run runs[kPiece<E>];
    load_runs(runs, row, col, channel, is_inside(row, col) ? channels - channel : 0);
    transpose<E>(runs, pieces);
  }

  // The runs of kCount channels, from `channel` on, that start at a pixel: of as many as are `there`, and zeros of the others.
  template <int kCount>
  GCN_DEVICE void load_runs(Run (&runs)[kCount], int row, int col, int channel, int there) const {
    const unsigned char* from = at(row, col, channel);
#pragma unroll
    for (int e = 0; e < kCount; ++e, from += to_next) {
      runs[e] = {};
      if (e < there) runs[e] = load_global(reinterpret_cast<const Run*>(from));
    }
  }

  // The same to memory, of the channels that there are.
  template <int kCount>
  GCN_DEVICE void store_runs(const Run (&runs)[kCount], int row, int col, int channel) const {
    unsigned char* to = at(row, col, channel);
#pragma unroll
    for (int e = 0; e < kCount; ++e, to += to_next) {
      if (channel + e < channels) store_global(reinterpret_cast<Run*>(to), runs[e]);
    }
  }

  // Calls then(piece, row, column) for the pieces of `rows` x `cols` pixels, kWide neighbours at a time, in the order in which
  // neighbouring threads take neighbours in memory: the pieces of a pixel where channels are next to each other, else pixels.
  template <class Then>
  GCN_DEVICE void for_pieces(int pieces, int rows, int cols, const Then& then) const {
    const int together = kWide == 1 && map.stride_c == 1 ? max(min(pieces, kThreads), 1) : 1, tid = int(threadIdx.x);
    const int step = kThreads / together;
    if (tid >= step * together) return;
#pragma unroll 1
    for (int piece = tid % together; piece < pieces; piece += together) {
#pragma unroll 1
      for (PixelWalk at(tid / together, step, cols / kWide); at.row < rows; at.next()) then(piece, at.row, at.col * kWide);
    }
  }

 private:
  GCN_DEVICE unsigned char* at(int row, int col, int channel) const {
    return data + (row * map.stride_h + col * map.stride_w) * int64_t(sizeof(E)) + channel * to_next;
  }
};

}  // namespace gcn::cuda
