// What the tensor cores multiply in strips_banded.cuh: fragments of maps, and bands.
//
// A line of k taps is a banded matrix, W[i, j] = w[j - i], which is the same along its diagonals. So is a fragment of it: a lane
// needs one register for each 8 columns of the band's width, whichever 8 outputs it is for. In shared memory there is a word for
// each tap, with the next tap in its upper half, and zeros around: word[i] = (w[i - 16], w[i - 15]). Taps that are d pixels apart
// have d - 1 zeros between them.
//
// Fragments of maps come by ldmatrix: as they are where pixels of a row are the depth of the product, transposed on the way where
// rows are. What a product reads beyond a map's region is read inside of it instead: zeros of the band or of a mask meet it, and
// nothing else may be there than numbers of this block.
#pragma once

#include "../fragment.cuh"
#include "strips_geometry.cuh"
#include "strips_kernels.h"

namespace gcn::cuda {

// How a kernel's taps lie on a map: lines of rows; or one line down a column.
struct StripsBandAxes {
  bool down;
  int lines, taps, dilation, line_dilation;
  int reach, length;  // pixels before the centre, pixels from the first tap to the last

  GCN_DEVICE explicit StripsBandAxes(const StripsKernel& k) : down(k.kw == 1 && k.kh > 1) {
    lines = down ? 1 : k.kh, line_dilation = down ? 1 : k.dh;
    taps = down ? k.kh : k.kw, dilation = down ? k.dh : k.dw;
    reach = dilation * (taps / 2), length = dilation * (taps - 1) + 1;
  }
};

// A channel's map in shared memory.
template <class E>
struct StripsPlane {
  const E* data;
  int rows, cols, pitch;

  GCN_DEVICE StripsPlane(const E* maps, const StripsMap& m, int channel)
      : data(maps + m.first + channel * m.plane), rows(m.rows), cols(m.cols), pitch(m.pitch) {}
  GCN_DEVICE const E* row(int i) const { return data + min(i, rows - 1) * pitch; }
  GCN_DEVICE int piece(int col) const { return min(col, cols - kStripsGroup); }
};

// A fragment A of 16 columns as rows, and 16 rows as depth.
template <class E>
GCN_DEVICE void load_turned_a(uint32_t (&a)[4], const StripsPlane<E>& m, int row, int col, int lane) {
  ldmatrix_x4_trans(a, m.row(row + (lane >> 4) * 8 + (lane & 7)) + m.piece(col + (lane >> 3 & 1) * 8));
}
// Of 16 rows as rows, and 16 columns as depth.
template <class E>
GCN_DEVICE void load_a(uint32_t (&a)[4], const StripsPlane<E>& m, int row, int col, int lane) {
  ldmatrix_x4(a, m.row(row + a_row(lane)) + m.piece(col + a_half(lane) * 8));
}
// Two fragments B of 8 columns each, and 16 rows as depth.
template <class E>
GCN_DEVICE void load_turned_b(uint32_t (&b)[4], const StripsPlane<E>& m, int row, int col, int lane) {
  ldmatrix_x4_trans(b, m.row(row + b_half(lane) * 8 + (lane & 7)) + m.piece(col + (lane >> 4) * 8));
}
// Of 8 rows each, and 16 columns as depth.
template <class E>
GCN_DEVICE void load_b(uint32_t (&b)[4], const StripsPlane<E>& m, int row, int col, int lane) {
  ldmatrix_x4(b, m.row(row + b_row(lane)) + m.piece(col + b_half(lane) * 8));
}

// sum [16 rows x 8 kBlocks columns] += x [16 rows x columns] times the band along them, of kPieces times 8 columns to each 8
// outputs. `row`: this lane's row of x; `col`: the first column.
template <int kPieces, int kBlocks, class E>
GCN_DEVICE void add_band(float (&sum)[kBlocks][4], const StripsPlane<E>& x, const E* row, int col,
                         const uint32_t (&band)[kPieces], int lane) {
  constexpr int kWindow = kBlocks - 1 + kPieces;
#pragma unroll
  for (int first = 0; first < kWindow; first += 2) {
    uint32_t a[4];
    ldmatrix_x4(a, row + x.piece(col + (first + a_half(lane)) * 8));
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int m = first - block;
      if (m >= 0 && m + 1 < kPieces) {
        mma(sum[block], a, {band[m], band[m + 1]}, E{});
      } else if (m >= 0 && m < kPieces) {
        mma_short(sum[block], a[0], a[1], band[m], E{});
      } else if (m + 1 >= 0 && m + 1 < kPieces) {
        mma_short(sum[block], a[2], a[3], band[m + 1], E{});
      }
    }
  }
}

// sum [16 rows x 8 kBlocks columns] += the band down them times x [rows x 8 kBlocks columns]. `words`: of this lane, see above.
template <int kBlocks, class E>
GCN_DEVICE void add_band_down(float (&sum)[kBlocks][4], const StripsPlane<E>& x, int row, int col, const uint32_t* words,
                              int length, int lane) {
  const int pieces = (length + 15 + 7) / 8;
#pragma unroll 1
  for (int piece = 0; piece < pieces; piece += 2) {
    const uint32_t* const at = words + piece * 8;
    const uint32_t on = load_shared(at), before = load_shared(at - 8), after = load_shared(at + 8);
    const uint32_t a[4] = {on, before, after, on};
#pragma unroll
    for (int block = 0; block < kBlocks; block += 2) {
      uint32_t b[4];
      load_turned_b(b, x, row + piece * 8, col + block * 8, lane);
      if (piece + 1 < pieces) {
        mma(sum[block], a, {b[0], b[1]}, E{});
        mma(sum[block + 1], a, {b[2], b[3]}, E{});
      } else {
        mma_short(sum[block], on, before, b[0], E{});
        mma_short(sum[block + 1], on, before, b[2], E{});
      }
    }
  }
}

// The bits of a lane's two numbers that belong to the first `count` of 8.
GCN_DEVICE uint32_t mask_of_pair(int count, int lane) {
  const int first = (lane & 3) * 2;
  return (first < count ? 0x0000ffffu : 0u) | (first + 1 < count ? 0xffff0000u : 0u);
}

// Leaves nothing in a fragment A but the first `rows` of its rows and the first `depth` of its depth.
GCN_DEVICE void mask_a(uint32_t (&a)[4], int rows, int depth, int lane) {
  if (rows >= 16 && depth >= 16) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool there = (lane >> 2) + (i & 1) * 8 < rows;
    a[i] &= there ? mask_of_pair(depth - (i >> 1) * 8, lane) : 0u;
  }
}

// Two ones as an operand: what is multiplied with them is added up.
template <class E>
constexpr uint32_t kStripsOnes = 0x3c003c00u;
template <>
inline constexpr uint32_t kStripsOnes<BFloat16> = 0x3f803f80u;

GCN_DEVICE bool is_finite(float x) { return fabsf(x) <= 3.402823466e+38f; }

}  // namespace gcn::cuda
