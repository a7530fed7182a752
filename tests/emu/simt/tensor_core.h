// ldmatrix and mma.sync as the PTX manual describes them, over all lanes of a warp at once.
//
// Fragments, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16" and "... m16n8k8"):
//   16 bit   a[0..3] = A[g][2t..], A[g + 8][2t..], A[g][2t + 8..], A[g + 8][2t + 8..]     b[0..1] = B[2t..][g], B[2t + 8..][g]
//   tf32     a[0..3] = A[g][t],    A[g + 8][t],    A[g][t + 4],    A[g + 8][t + 4]        b[0..1] = B[t][g],    B[t + 4][g]
//   fp32     d[0..3] = D[g][2t], D[g][2t + 1], D[g + 8][2t], D[g + 8][2t + 1]
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "number_formats.h"
#include "runtime.h"

namespace simt {

struct LdmatrixOperands {
  uint32_t* registers;
  const void* row;
};

template <int TILES, bool TRANSPOSED>
void ldmatrix(uint32_t (&registers)[TILES], const void* row) {
  constexpr const char* kName = TILES == 4 ? (TRANSPOSED ? "ldmatrix.x4.trans" : "ldmatrix.x4")  //
                                           : (TRANSPOSED ? "ldmatrix.x2.trans" : "ldmatrix.x2");
  const Thread& me = *running.thread;
  if (me.lane() < 8 * TILES) {  // the addresses of further lanes do not count
    if (reinterpret_cast<uintptr_t>(row) % 16) report(std::string(kName) + " of a row that is not aligned to 16 bytes");
    Accessor warp = accessor();
    warp.thread = kWholeWarp;
    running.shared->read(row, 16, kName, warp);
  }
  LdmatrixOperands mine{registers, row};
  warp_instruction(kName, mine, [](const std::array<LdmatrixOperands*, kWarpSize>& lanes) {
    for (int tile = 0; tile < TILES; ++tile) {
      uint16_t m[8][8];
      for (int i = 0; i < 8; ++i) std::memcpy(m[i], lanes[static_cast<size_t>(8 * tile + i)]->row, sizeof m[i]);
      for (int lane = 0; lane < kWarpSize; ++lane) {
        const int g = lane / 4, t = 2 * (lane % 4);
        const uint32_t low = TRANSPOSED ? m[t][g] : m[g][t], high = TRANSPOSED ? m[t + 1][g] : m[g][t + 1];
        lanes[static_cast<size_t>(lane)]->registers[tile] = low | high << 16;
      }
    }
  });
}

struct MmaOperands {
  float* d;
  const uint32_t *a, *b;
};

// How the fragments of one element type are laid out. `kDepth`: the products of one instruction along k.
template <class T>
struct Fragments16 {
  static constexpr int kDepth = 16;
  static float half(uint32_t pair, int i) { return widen(T{static_cast<uint16_t>(pair >> 16 * i)}); }
  static void unpack(double (&a)[16][16], double (&b)[16][8], int g, int t, const MmaOperands& lane) {
    for (int i = 0; i < 2; ++i) {
      a[g][2 * t + i] = half(lane.a[0], i), a[g + 8][2 * t + i] = half(lane.a[1], i);
      a[g][2 * t + 8 + i] = half(lane.a[2], i), a[g + 8][2 * t + 8 + i] = half(lane.a[3], i);
      b[2 * t + i][g] = half(lane.b[0], i), b[2 * t + 8 + i][g] = half(lane.b[1], i);
    }
  }
};

struct FragmentsTf32 {
  static constexpr int kDepth = 8;
  static void unpack(double (&a)[16][8], double (&b)[8][8], int g, int t, const MmaOperands& lane) {
    a[g][t] = cut_to_tf32(lane.a[0]), a[g + 8][t] = cut_to_tf32(lane.a[1]);
    a[g][t + 4] = cut_to_tf32(lane.a[2]), a[g + 8][t + 4] = cut_to_tf32(lane.a[3]);
    b[t][g] = cut_to_tf32(lane.b[0]), b[t + 4][g] = cut_to_tf32(lane.b[1]);
  }
};

// Tensor cores add the exact products of half an instruction to the accumulator and cut the sum off to fp32 (Fasi, Higham,
// Mikaitis and Pranesh, 2021, for the A100); newer ones take the whole instruction at once, which cuts off less often.
template <class Fragments>
void mma(const char* name, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  MmaOperands mine{d, a, b};
  warp_instruction(name, mine, [](const std::array<MmaOperands*, kWarpSize>& lanes) {
    constexpr int kDepth = Fragments::kDepth;
    double a[16][kDepth], b[kDepth][8], d[16][8];
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const MmaOperands& of = *lanes[static_cast<size_t>(lane)];
      const int g = lane / 4, t = lane % 4;
      Fragments::unpack(a, b, g, t, of);
      for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][2 * t + i % 2] = of.d[i];
    }
    for (int m = 0; m < 16; ++m)
      for (int start = 0; start < kDepth; start += kDepth / 2) {
        for (int k = start; k < start + kDepth / 2; ++k)
          for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
        for (int n = 0; n < 8; ++n) d[m][n] = cut_to_float(d[m][n]);
      }
    for (int lane = 0; lane < kWarpSize; ++lane)
      for (int i = 0; i < 4; ++i)
        lanes[static_cast<size_t>(lane)]->d[i] = static_cast<float>(d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2]);
  });
}

// m16n8k8 of 16 bits has the registers of the first half of m16n8k16's operands; a second half of zeros adds nothing to a sum.
template <class Fragments>
void mma_short(const char* name, float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  const uint32_t a[4] = {a0, a1, 0, 0}, b[2] = {b0, 0};
  mma<Fragments>(name, d, a, b);
}

}  // namespace simt
