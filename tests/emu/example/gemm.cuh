// A pipelined matrix product that uses the device layer as the package's kernels do, small enough to plant faults in
// (test_faults.py): C [M, N] = A [M, K] B [K, N] with fp32 accumulation; K and N multiples of 8.
//
// A block of 4 warps computes 64 x 64 of C, each warp 32 x 32, from three stages of A [64 x 32] and B [32 x 64] in shared memory.
#pragma once

#include "device.cuh"

namespace gcn::cuda {

struct GemmTile {
  static constexpr int kM = 64, kN = 64, kK = 32, kStages = 3, kThreads = 128;
  static constexpr int kPitchA = kK + 8, kPitchB = kN + 8;  // no two rows of an 8 x 8 tile in the same banks
  static constexpr int kStageA = kM * kPitchA, kStageB = kK * kPitchB;
  static constexpr size_t kSharedBytes = size_t(kStages) * (kStageA + kStageB) * 2;
};

template <class T>
GCN_DEVICE void gemm_load(T* stage_a, T* stage_b, const T* a, const T* b, int m0, int n0, int k0, int M, int N, int K) {
  using Tile = GemmTile;
  constexpr int kChunk = 8;  // elements of a 16-byte copy
  for (int i = threadIdx.x; i < Tile::kM * Tile::kK / kChunk; i += Tile::kThreads) {
    const int row = i / (Tile::kK / kChunk), column = i % (Tile::kK / kChunk) * kChunk;
    const bool valid = m0 + row < M && k0 + column < K;
    copy_async<16>(stage_a + row * Tile::kPitchA + column, valid ? a + size_t(m0 + row) * K + k0 + column : a, valid);
  }
  for (int i = threadIdx.x; i < Tile::kK * Tile::kN / kChunk; i += Tile::kThreads) {
    const int row = i / (Tile::kN / kChunk), column = i % (Tile::kN / kChunk) * kChunk;
    const bool valid = k0 + row < K && n0 + column < N;
    copy_async<16>(stage_b + row * Tile::kPitchB + column, valid ? b + size_t(k0 + row) * N + n0 + column : b, valid);
  }
}

template <class T>
__global__ void __launch_bounds__(GemmTile::kThreads)
    gemm(const T* __restrict__ a, const T* __restrict__ b, float* __restrict__ c, int M, int N, int K) {
  using Tile = GemmTile;
  GCN_DYNAMIC_SHARED(shared);
  T* tiles_a = reinterpret_cast<T*>(shared);
  T* tiles_b = tiles_a + Tile::kStages * Tile::kStageA;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / 2 * 32, warp_n = warp % 2 * 32;
  const int m0 = blockIdx.y * Tile::kM, n0 = blockIdx.x * Tile::kN, steps = (K + Tile::kK - 1) / Tile::kK;
  const auto load = [&](int step) {
    const int stage = step % Tile::kStages;
    gemm_load(tiles_a + stage * Tile::kStageA, tiles_b + stage * Tile::kStageB, a, b, m0, n0, step * Tile::kK, M, N, K);
  };
  wait_for_dependencies();
  float sums[2][4][4] = {};
  for (int step = 0; step < Tile::kStages - 1; ++step) {
    if (step < steps) load(step);
    copy_commit();
  }
  for (int step = 0; step < steps; ++step) {
    copy_wait<Tile::kStages - 2>();
    __syncthreads();
    if (step + Tile::kStages - 1 < steps) load(step + Tile::kStages - 1);
    copy_commit();
    const T* tile_a = tiles_a + step % Tile::kStages * Tile::kStageA;
    const T* tile_b = tiles_b + step % Tile::kStages * Tile::kStageB;
    for (int k = 0; k < Tile::kK; k += 16) {
      uint32_t a_fragments[2][4], b_fragments[2][4];
      for (int i = 0; i < 2; ++i)
        ldmatrix_x4(a_fragments[i], tile_a + (warp_m + i * 16 + lane % 16) * Tile::kPitchA + k + lane / 16 * 8);
      for (int j = 0; j < 2; ++j)
        ldmatrix_x4_trans(b_fragments[j], tile_b + (k + lane % 16) * Tile::kPitchB + warp_n + j * 16 + lane / 16 * 8);
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 4; ++j) {
          const uint32_t b_pair[2] = {b_fragments[j / 2][j % 2 * 2], b_fragments[j / 2][j % 2 * 2 + 1]};
          mma(sums[i][j], a_fragments[i], b_pair, T());
        }
    }
  }
  copy_wait<0>();
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 4; ++j)
      for (int e = 0; e < 4; ++e) {
        const int m = m0 + warp_m + i * 16 + lane / 4 + e / 2 * 8, n = n0 + warp_n + j * 8 + lane % 4 * 2 + e % 2;
        if (m < M && n < N) c[size_t(m) * N + n] = sums[i][j][e];
      }
}

template <class T>
cudaError_t launch_gemm(const void* a, const void* b, float* c, int M, int N, int K, bool dependent, cudaStream_t stream) {
  const auto blocks = [](int size, int tile) { return static_cast<unsigned>((size + tile - 1) / tile); };
  const Launch how{dim3(blocks(N, GemmTile::kN), blocks(M, GemmTile::kM)), GemmTile::kThreads, GemmTile::kSharedBytes, stream,
                   dependent};
  return launch(gemm<T>, how, static_cast<const T*>(a), static_cast<const T*>(b), c, M, N, K);
}

}  // namespace gcn::cuda
