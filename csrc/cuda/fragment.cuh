// Operands of a matrix product in shared memory, and how the tensor cores' fragments are taken from them.
//
// Everything is counted in bytes: one step of the product is 32 bytes deep (16 numbers of 16 bits, or 8 of 32), one row of an
// 8 x 8 fragment is a piece of 16 bytes. So the same code serves m16n8k16 in 16 bits and m16n8k8 in tf32.
//
// "rows" operands have the depth contiguous: [row][depth]. "columns" operands have it as their slow dimension: [depth][row].
// ldmatrix transposes 16-bit columns on the way; 32-bit ones are read word by word.
#pragma once

#include "device.cuh"
#include "operands.h"

namespace gcn::cuda {

// The arithmetic M of a product (Half, BFloat16, Tf32, Fp32) and the type its operands are stored in.
template <class M>
struct ElementOf {
  using type = M;
};
template <>
struct ElementOf<Tf32> {
  using type = float;
};
template <>
struct ElementOf<Fp32> {
  using type = float;
};
template <class M>
constexpr bool kIsTf32 = false;
template <>
inline constexpr bool kIsTf32<Tf32> = true;
template <class M>
constexpr bool kIsFp32 = false;
template <>
inline constexpr bool kIsFp32<Fp32> = true;
template <class M>
using Element = typename ElementOf<M>::type;

template <class E>
constexpr int kPiece = kPieceBytes / int(sizeof(E));  // elements of a piece
template <class E>
constexpr int kDepth = 32 / int(sizeof(E));  // elements of one step

// Whole pieces, to be moved at once.
template <class E, int kCount>
struct alignas(kPieceBytes) Elements {
  E value[kCount];
};

// tf32 operands are rounded once, in registers: the tensor cores would cut them off. Packed weights are rounded already.
template <class M, int kCount>
GCN_DEVICE void round_operand(uint32_t (&r)[kCount]) {
  if constexpr (kIsTf32<M>) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) r[i] = round_to_tf32(r[i]);
  }
}

// Where piece `piece` of row `row` lies, in pieces, in a tile of rows of 64 bytes: eight neighbouring rows fall into eight
// different groups of banks.
GCN_HOST_DEVICE constexpr int swizzle_rows(int row, int piece) { return row * 4 + (piece ^ (row >> 1 & 3)); }

// The same for rows of 128 bytes.
GCN_HOST_DEVICE constexpr int swizzle_rows_128(int row, int piece) { return row * 8 + (piece ^ (row & 7)); }

// The same for a columns operand, [depth][row], of `pieces` pieces in each depth. 16-bit fragments take one piece from eight
// neighbouring depths, 32-bit ones two from four.
template <class E>
GCN_HOST_DEVICE constexpr int swizzle_columns(int depth, int piece, int pieces) {
  return depth * pieces + (piece ^ (sizeof(E) == 4 ? (depth & 3) << 1 : pieces >= 8 ? depth & 7 : depth >> 1 & 3));
}

// Which of 32 outputs is in row `row` of weights packed so that a lane's eight accumulators of a row, in four neighbouring 8 x 8
// blocks, are eight neighbouring outputs.
GCN_HOST_DEVICE constexpr int output_of_lanes(int row) {
  return (row & ~31) | (row >> 1 & 3) << 3 | (row >> 3 & 3) << 1 | (row & 1);
}

// --- what a lane names to ldmatrix_x4. A (16 rows x 32 bytes): rows 0-7 and 8-15 of the first half of the depth, then of the
// second. B (two blocks of 8 columns x 32 bytes): both halves of the first block, then of the second.
GCN_DEVICE int a_row(int lane) { return lane & 15; }
GCN_DEVICE int a_half(int lane) { return lane >> 4; }
GCN_DEVICE int b_row(int lane) { return (lane >> 4) * 8 + (lane & 7); }
GCN_DEVICE int b_half(int lane) { return lane >> 3 & 1; }

// A from a columns operand in shared memory: rows row0 ... row0 + 15, row0 a multiple of 16. Where a lane finds its numbers, in
// bytes from the first depth of a step.
template <class E>
GCN_DEVICE int a_columns_at(int row0, int pieces, int lane) {
  if constexpr (sizeof(E) == 2) {
    return swizzle_columns<E>((lane >> 4) * 8 + (lane & 7), row0 / 8 + (lane >> 3 & 1), pieces) * kPieceBytes;
  } else {
    const int row = row0 + (lane >> 2);
    return swizzle_columns<E>(lane & 3, row / 4, pieces) * kPieceBytes + row % 4 * 4;
  }
}

// `depth`: the first depth of the step.
template <class E>
GCN_DEVICE void load_a_columns(uint32_t (&a)[4], const unsigned char* depth, int at, int pieces) {
  if constexpr (sizeof(E) == 2) {
    ldmatrix_x4_trans(a, depth + at);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // eight rows further are two pieces, four depths further have the same permutation
      const int of_rows = at ^ (i & 1) * 2 * kPieceBytes, further = (i >> 1) * 4 * pieces * kPieceBytes;
      a[i] = load_shared(reinterpret_cast<const uint32_t*>(depth + of_rows + further));
    }
  }
}

// The coordinates of accumulator i of a lane within its 16 x 8 block.
GCN_DEVICE int c_row(int lane, int i) { return (lane >> 2) + (i >> 1) * 8; }
GCN_DEVICE int c_column(int lane, int i) { return (lane & 3) * 2 + (i & 1); }

}  // namespace gcn::cuda
