// How the threads of strips_tile.cuh find their way: the axes of a kernel, what of a region lies in the image, the pieces that a
// thread moves, and from a number of taps to the code for it.
#pragma once

#include <cstring>

#include "../device.cuh"
#include "strips_kernels.h"

namespace gcn::cuda {

template <int kTaps>
struct StripsTaps {
  static constexpr int kValue = kTaps;
};

// run(StripsTaps<taps>) where the compiler knows such a kernel, else run(StripsTaps<0>). In float64 it knows none.
template <class A, class Run>
GCN_DEVICE void with_taps(int taps, const Run& run) {
  if constexpr (sizeof(A) == 8) return run(StripsTaps<0>{});
  switch (taps) {
    case 3:
      return run(StripsTaps<3>{});
    case 5:
      return run(StripsTaps<5>{});
    case 7:
      return run(StripsTaps<7>{});
    case 11:
      return run(StripsTaps<11>{});
    case 19:
      return run(StripsTaps<19>{});
    case 21:
      return run(StripsTaps<21>{});
    default:
      return run(StripsTaps<0>{});
  }
}

// A kernel with its longer axis in front.
struct StripsAxes {
  bool down;  // it is the one of the rows
  int taps, dilation, lines, line_dilation;
  int padded;  // taps of a line in shared memory

  GCN_DEVICE explicit StripsAxes(const StripsKernel& k) : down(k.kh > k.kw) {
    taps = down ? k.kh : k.kw, dilation = down ? k.dh : k.dw;
    lines = down ? k.kw : k.kh, line_dilation = down ? k.dw : k.dh;
    padded = (taps + kStripsGroup - 1) / kStripsGroup * kStripsGroup;
  }
  // Of tap `t` of line `u`, in the order of memory.
  GCN_DEVICE int natural(int u, int t) const { return down ? t * lines + u : u * taps + t; }
  GCN_DEVICE int taps_known() const { return dilation == 1 ? taps : 0; }
};

// Of two numbers that are not negative, which takes fewer instructions than if they might be.
GCN_DEVICE int quotient(int a, int b) { return int(unsigned(a) / unsigned(b)); }

// The part of a region, along an axis, that lies in the image.
struct StripsSpan {
  int begin, end;

  GCN_DEVICE StripsSpan(int origin, int region, int image) : begin(max(0, -origin)), end(min(region, image - origin)) {}
  GCN_DEVICE bool holds(int i) const { return i >= begin && i < end; }
  GCN_DEVICE int size() const { return end - begin; }
};

// A thread's way through slices of rows of pieces, `step` pieces at a time: divisions at its start alone.
struct StripsWalk {
  int pieces, rows;                   // of a row, of a slice
  int piece, row, slice;              // where it is
  int pieces_on, rows_on, slices_on;  // of a step

  GCN_DEVICE StripsWalk(int of_row, int of_slice, int start, int step) : pieces(of_row), rows(of_slice) {
    const int start_row = quotient(start, pieces), step_rows = quotient(step, pieces);
    piece = start - start_row * pieces, pieces_on = step - step_rows * pieces;
    slice = quotient(start_row, rows), slices_on = quotient(step_rows, rows);
    row = start_row - slice * rows, rows_on = step_rows - slices_on * rows;
  }
  // The functions are called where a row, or a slice, ends.
  template <class Row, class Slice>
  GCN_DEVICE void go_on(const Row& next_row, const Slice& next_slice) {
    piece += pieces_on, row += rows_on, slice += slices_on;
    if (piece >= pieces) piece -= pieces, ++row, next_row();
    if (row >= rows) row -= rows, ++slice, next_slice();
  }
  GCN_DEVICE void go_on() {
    go_on([] {}, [] {});
  }
};

// What a place on such a way is from the first one, where a piece, a row and a slice are so far apart: by additions alone.
template <class Distance>
struct StripsOffset {
  Distance at, on, at_row, at_slice;

  GCN_DEVICE StripsOffset(const StripsWalk& w, Distance piece, Distance row, Distance slice)
      : at(w.piece * piece + w.row * row + w.slice * slice),
        on(w.pieces_on * piece + w.rows_on * row + w.slices_on * slice),
        at_row(row - w.pieces * piece),
        at_slice(slice - w.rows * row) {}
};

// Neighbouring elements of an image that are moved at once.
template <class E, int kCount>
struct alignas(kCount * sizeof(E) < 16 ? kCount * sizeof(E) : 16) StripsPiece {
  E value[kCount];
};

// The same bytes as another type, without leaving the registers.
template <class To, class From>
GCN_DEVICE To same_bytes(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace gcn::cuda
