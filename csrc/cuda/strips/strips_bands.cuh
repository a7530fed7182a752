// What the tensor cores multiply in strips_banded.cuh: fragments of maps, and bands.
//
// A line of k taps is a banded matrix, W[i, j] = w[j - i], which is the same along its diagonals. So is a fragment of it: a lane
// needs one register for each 8 columns of the band's width, whichever 8 outputs it is for. In shared memory there is a word for
// each tap, with the next tap in its upper half, and zeros around: word[i] = (w[i - 16], w[i - 15]). Taps that are d pixels apart
// have d - 1 zeros between them. In tf32 a word is one tap, rounded.
//
// Fragments of maps come by ldmatrix: as they are where pixels of a row are the depth of the product, transposed on the way where
// rows are. Numbers of 32 bits it cannot transpose: those are read one by one, every other row of the depth first, so that the
// rows that lanes read at a time lie in different banks. What a product reads beyond a map's region is read inside of it instead:
// zeros of the band or of a mask meet it, and nothing else may be there than numbers of this block.
#pragma once

#include <type_traits>

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
  GCN_DEVICE int from(int row) const { return min(row, rows - 1) * pitch; }
  GCN_DEVICE const E* row(int i) const { return data + from(i); }
  GCN_DEVICE int piece(int col) const { return min(col, cols - kPiece<E>); }
  // The lane's of 8 columns.
  GCN_DEVICE uint32_t word(const E* row, int col, int lane) const {
    return load_shared(reinterpret_cast<const uint32_t*>(row + min(col, cols - kStripsGroup) + (lane >> 2)));
  }
};

// A fragment A of 16 columns as rows, and kDepth<E> rows as depth.
template <class E>
GCN_DEVICE void load_turned_a(uint32_t (&a)[4], const StripsPlane<E>& m, int row, int col, int lane) {
  if constexpr (sizeof(E) == 2) {
    ldmatrix_x4_trans(a, m.row(row + (lane >> 4) * 8 + (lane & 7)) + m.piece(col + (lane >> 3 & 1) * 8));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = m.word(m.row(row + (lane & 3) * 2 + (i >> 1)), col + (i & 1) * 8, lane);
  }
}
// Of 16 rows as rows, and kDepth<E> columns as depth.
template <class E>
GCN_DEVICE void load_a(uint32_t (&a)[4], const StripsPlane<E>& m, int row, int col, int lane) {
  ldmatrix_x4(a, m.row(row + a_row(lane)) + m.piece(col + a_half(lane) * kPiece<E>));
}
// Two fragments B of 8 columns each, and kDepth<E> rows as depth.
template <class E>
GCN_DEVICE void load_turned_b(uint32_t (&b)[4], const StripsPlane<E>& m, int row, int col, int lane) {
  if constexpr (sizeof(E) == 2) {
    ldmatrix_x4_trans(b, m.row(row + b_half(lane) * 8 + (lane & 7)) + m.piece(col + (lane >> 4) * 8));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) b[i] = m.word(m.row(row + (lane & 3) * 2 + (i & 1)), col + (i >> 1) * 8, lane);
  }
}
// Of 8 rows each, and kDepth<E> columns as depth.
template <class E>
GCN_DEVICE void load_b(uint32_t (&b)[4], const StripsPlane<E>& m, int row, int col, int lane) {
  ldmatrix_x4(b, m.row(row + b_row(lane)) + m.piece(col + b_half(lane) * kPiece<E>));
}

// What a lane reads of a map: so many places in a row, for windows of two pieces each along a row if a block of 8 outputs takes
// `pieces` of them, or for the blocks' own columns if `pieces` is 0, where a word of 32 bits is of one block.
template <class E>
GCN_HOST_DEVICE constexpr int strips_places(int blocks, int pieces) {
  if (pieces == 0) return sizeof(E) == 2 ? blocks / 2 : blocks;
  return ((blocks - 1) * 8 / kPiece<E> + pieces + 1) / 2;
}
// They lie in the first row; `col`: the first column.
template <int kPieces, int kPlaces, class E>
GCN_DEVICE void find_places(const E* (&places)[kPlaces], const StripsPlane<E>& x, int col, int lane) {
#pragma unroll
  for (int i = 0; i < kPlaces; ++i) {
    if constexpr (kPieces > 0) {
      places[i] = x.data + x.piece(col + (2 * i + a_half(lane)) * kPiece<E>);
    } else if constexpr (sizeof(E) == 2) {
      places[i] = x.data + x.piece(col + i * 16 + (lane >> 4) * 8);
    } else {
      places[i] = x.data + min(col + i * 8, x.cols - kStripsGroup) + (lane >> 2);
    }
  }
}

// sum [16 rows x 8 kBlocks columns] += x [16 rows x columns] times the band along them, of kPieces pieces of columns to each 8
// outputs. `row`: elements from the first row to this lane's.
template <class M, int kPieces, int kBlocks, int kPlaces, class E>
GCN_DEVICE void add_band(float (&sum)[kBlocks][4], const E* const (&places)[kPlaces], int row, const uint32_t (&band)[kPieces]) {
  constexpr int kNext = 8 / kPiece<E>;  // pieces from the window of a block to the next one's
  static_assert(kPlaces == strips_places<E>(kBlocks, kPieces) && (kNext == 1 || kPieces % 2 == 0));
#pragma unroll
  for (int first = 0; first < 2 * kPlaces; first += 2) {
    uint32_t a[4];
    ldmatrix_x4(a, places[first / 2] + row);
    round_operand<M>(a);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int m = first - block * kNext;
      if (m >= 0 && m + 1 < kPieces) {
        mma(sum[block], a, {band[m], band[m + 1]}, M{});
      } else if constexpr (kNext == 1) {
        if (m >= 0 && m < kPieces) {
          mma_short(sum[block], a[0], a[1], band[m], M{});
        } else if (m + 1 >= 0 && m + 1 < kPieces) {
          mma_short(sum[block], a[2], a[3], band[m + 1], M{});
        }
      }
    }
  }
}

// sum [16 rows x 8 kBlocks columns] += the band down them times x [rows x 8 kBlocks columns]. `words`: of this lane, see above.
// A last half of a product meets zeros of the band: to decide whether it is there takes longer.
template <class M, int kBlocks, int kPlaces, class E>
GCN_DEVICE void add_band_down(float (&sum)[kBlocks][4], const StripsPlane<E>& x, const E* const (&places)[kPlaces], int row,
                              const uint32_t* words, int length, int lane) {
  static_assert(kPlaces == strips_places<E>(kBlocks, 0));
  row += sizeof(E) == 2 ? b_half(lane) * 8 + (lane & 7) : (lane & 3) * 2;
  int left = length + 15;
#pragma unroll 1
  do {
    const int from = x.from(row);
    uint32_t a[4] = {load_shared(words), load_shared(words - 8)};
    if constexpr (sizeof(E) == 2) {
      a[2] = load_shared(words + 8), a[3] = a[0];
#pragma unroll
      for (int block = 0; block < kBlocks; block += 2) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, places[block / 2] + from);
        mma(sum[block], a, {b[0], b[1]}, M{});
        mma(sum[block + 1], a, {b[2], b[3]}, M{});
      }
    } else {
      const int next = x.from(row + 1);
      a[2] = load_shared(words + 1), a[3] = load_shared(words - 7);
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        uint32_t b[2] = {load_shared(reinterpret_cast<const uint32_t*>(places[block] + from)),
                         load_shared(reinterpret_cast<const uint32_t*>(places[block] + next))};
        round_operand<M>(b);
        mma(sum[block], a, b, M{});
      }
    }
    row += kDepth<E>, words += kDepth<E>, left -= kDepth<E>;
  } while (left > 0);
}

// The bits of a lane's two numbers that belong to the first `count` of 8.
GCN_DEVICE uint32_t mask_of_pair(int count, int lane) {
  const int first = (lane & 3) * 2;
  return (first < count ? 0x0000ffffu : 0u) | (first + 1 < count ? 0xffff0000u : 0u);
}

// Leaves nothing in a fragment A but the first `rows` of its rows and the first `depth` of its depth. In 32 bits it is 8 deep, as
// many as regions have whole groups of, which are zero outside of the image.
template <class E>
GCN_DEVICE void mask_a(uint32_t (&a)[4], int rows, int depth, int lane) {
  if (rows >= 16 && (sizeof(E) == 4 || depth >= 16)) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool there = (lane >> 2) + (i & 1) * 8 < rows;
    a[i] &= !there ? 0u : sizeof(E) == 4 ? ~0u : mask_of_pair(depth - (i >> 1) * 8, lane);
  }
}

// Ones as an operand: what is multiplied with them is added up.
template <class E>
constexpr uint32_t kStripsOnes = 0x3c003c00u;
template <>
inline constexpr uint32_t kStripsOnes<BFloat16> = 0x3f803f80u;

// The two numbers of a word. The upper half of a word of bfloat16 is one in float32 as soon as the lower half is zero.
template <class E, class Word>
GCN_DEVICE float first_of(Word word) {
  if constexpr (std::is_same_v<E, BFloat16>) {
    return float_of(word << 16);
  } else {
    return to_float(same_bytes<StripsPiece<E, 2>>(word).value[0]);
  }
}
template <class E, class Word>
GCN_DEVICE float second_of(Word word) {
  if constexpr (std::is_same_v<E, BFloat16>) {
    return float_of(word & 0xffff0000u);
  } else {
    return to_float(same_bytes<StripsPiece<E, 2>>(word).value[1]);
  }
}

GCN_DEVICE bool is_finite(float x) { return fabsf(x) <= 3.402823466e+38f; }

}  // namespace gcn::cuda
