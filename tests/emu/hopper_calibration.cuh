// One small kernel per wrapper of the Hopper layer, run on fixed inputs as those of calibration.cuh are: in the emulator by the
// tests, once on a GPU for the golden data. Block (or cluster) i handles set i.
#pragma once

#include "calibration.cuh"
#include "gcn/hopper/hopper_device.cuh"

namespace gcn::cuda::calibration {

constexpr int kGroupThreads = 128;

struct HopperCase {
  const char* name;
  void (*kernel)(const unsigned char*, unsigned char*, TensorMap);
  size_t input_bytes, output_bytes;  // of one set
  int cluster;                       // blocks that handle a set
  TensorShape shape;                 // of the map over all sets, its last dimension being the set; rank 0 if there is none
};

// --- wgmma: two images of shared memory, each of kImage bytes, are taken as operands in one of the layouts.

constexpr int kImage = 16384;
constexpr int kImages = 2 * kImage;

struct OperandLayout {
  bool transposed;
  uint32_t leading, stride;
  Swizzle swizzle;
  uint32_t step = 4096;  // to the operand of a second product
};

// Copies an input to shared memory that is aligned to 1024 bytes, by ordinary stores.
template <int BYTES>
GCN_DEVICE unsigned char* stage_input(const unsigned char* in) {
  GCN_DYNAMIC_SHARED(shared);
  unsigned char* aligned = shared + (1024 - shared_address(shared) % 1024) % 1024;
  for (int i = threadIdx.x; i < BYTES / 16; i += kGroupThreads)
    store_shared(reinterpret_cast<uint4*>(aligned) + i, input_of<uint4, BYTES / 16>(in)[i]);
  return aligned;
}

constexpr OperandLayout kLayouts[] = {
    {false, 128, 256, Swizzle::kNone},  // 0: units of depth next to each other in pairs of blocks
    {false, 0, 256, Swizzle::k32},      // 1
    {false, 0, 512, Swizzle::k64},      // 2
    {false, 0, 1024, Swizzle::k128},    // 3
    {true, 1024, 128, Swizzle::kNone},  // 4: blocks of eight depths follow each other along the rows
    {true, 512, 256, Swizzle::k32},     // 5
    {true, 1024, 512, Swizzle::k64},    // 6
    {true, 2048, 1024, Swizzle::k128},  // 7
    {false, 16, 256, Swizzle::kNone},   // 8: blocks that overlap: each unit of depth is one row further
    {true, 128, 16, Swizzle::kNone},    // 9: the same along the rows
    // Of k-blocks with 32 of depth, both halves by a step:
    {true, 128, 512, Swizzle::kNone, 256},    // 10: blocks of eight depths follow each other along the depth
    {true, 1024, 256, Swizzle::k32, 512},     // 11
    {true, 2048, 512, Swizzle::k64, 1024},    // 12
    {true, 4096, 1024, Swizzle::k128, 2048},  // 13
    {false, 0, 512, Swizzle::k64, 32},        // 14
};

// d = a b in a group of its own, then d += a' b' with both a step further on.
template <class M, int N, int kLayoutA, int kLayoutB>
__global__ void __launch_bounds__(kGroupThreads, 1)
    wgmma_kernel(const unsigned char* in, unsigned char* out, GCN_PARAMS TensorMap) {
  constexpr OperandLayout a = kLayouts[kLayoutA], b = kLayouts[kLayoutB];
  const unsigned char* images = stage_input<kImages>(in);
  fence_async_proxy();
  __syncthreads();
  const uint64_t of_a = operand(shared_address(images), a.leading, a.stride, a.swizzle);
  const uint64_t of_b = operand(shared_address(images + kImage), b.leading, b.stride, b.swizzle);
  float d[N / 2];
  wgmma_fence();
  wgmma<N, a.transposed, b.transposed>(d, of_a, of_b, false, M{});
  wgmma_commit();
  wgmma<N, a.transposed, b.transposed>(d, moved(of_a, a.step), moved(of_b, b.step), true, M{});
  wgmma_commit();
  wgmma_wait<1>();
  wgmma_wait<0>();
  wgmma_results(d);
  for (int i = 0; i < N / 2; ++i) output_of<float, 64 * N>(out)[threadIdx.x * (N / 2) + i] = d[i];
}

// The same with A in registers: of each product four of each thread, as the first image has them.
template <class M, int N, int kLayoutB>
__global__ void __launch_bounds__(kGroupThreads, 1)
    wgmma_of_registers_kernel(const unsigned char* in, unsigned char* out, GCN_PARAMS TensorMap) {
  constexpr OperandLayout b = kLayouts[kLayoutB];
  const unsigned char* images = stage_input<kImages>(in);
  fence_async_proxy();
  __syncthreads();
  const uint64_t of_b = operand(shared_address(images + kImage), b.leading, b.stride, b.swizzle);
  uint32_t a[2][4];
  for (int i = 0; i < 2; ++i) {
    const uint4 own = load_shared(reinterpret_cast<const uint4*>(images) + i * kGroupThreads + threadIdx.x);
    a[i][0] = own.x, a[i][1] = own.y, a[i][2] = own.z, a[i][3] = own.w;
  }
  float d[N / 2];
  wgmma_fence();
  wgmma<N>(d, a[0], of_b, false, M{});
  wgmma_commit();
  wgmma<N>(d, a[1], moved(of_b, b.step), true, M{});
  wgmma_commit();
  wgmma_wait<1>();
  wgmma_wait<0>();
  wgmma_results(d);
  for (int i = 0; i < N / 2; ++i) output_of<float, 64 * N>(out)[threadIdx.x * (N / 2) + i] = d[i];
}

// --- barriers and copies

// 4096 bytes arrive in two phases of one barrier, the second half first, and are written out as they lie.
__global__ void __launch_bounds__(kGroupThreads, 1)
    bulk_kernel(const unsigned char* in, unsigned char* out, GCN_PARAMS TensorMap) {
  constexpr int kBytes = 4096;
  GCN_DYNAMIC_SHARED(shared);
  Barrier* full = reinterpret_cast<Barrier*>(shared + kBytes);
  if (threadIdx.x == 0) {
    barrier_init(full, 1);
    fence_barrier_init();
  }
  __syncthreads();
  for (uint32_t phase = 0; phase < 2; ++phase) {
    const int at = phase ? 0 : kBytes / 2;
    if (threadIdx.x == 32) {
      barrier_expect(full, kBytes / 2);
      copy_bulk(shared + at, reinterpret_cast<const unsigned char*>(input_of<uint4, kBytes / 16>(in)) + at, 1024, full);
      copy_bulk(shared + at + 1024, reinterpret_cast<const unsigned char*>(input_of<uint4, kBytes / 16>(in)) + at + 1024, 1024,
                full);
    }
    barrier_wait(full, phase);
    uint4* to = output_of<uint4, kBytes / 16>(out) + at / 16;
    to[threadIdx.x] = load_shared(reinterpret_cast<const uint4*>(shared + at) + threadIdx.x);
    group_barrier(1, kGroupThreads);
  }
}

// A box of the map that reaches over all of its edges, as it lies in shared memory.
template <int RANK, int BYTES>
__global__ void __launch_bounds__(kGroupThreads, 1)
    tensor_kernel(const unsigned char*, unsigned char* out, GCN_PARAMS TensorMap map) {
  GCN_DYNAMIC_SHARED(shared);
  unsigned char* box = shared + (1024 - shared_address(shared) % 1024) % 1024;
  Barrier* full = reinterpret_cast<Barrier*>(box + BYTES);
  if (threadIdx.x == 0) {
    barrier_init(full, 1);
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const int set = int(blockIdx.x);
    barrier_expect(full, BYTES);
    if constexpr (RANK == 2) copy_tensor_2d(box, &map, 8, set * 16 - 3, full);
    if constexpr (RANK == 3) copy_tensor_3d(box, &map, -4, 5, set, full);
    if constexpr (RANK == 4) copy_tensor_4d(box, &map, 8, -2, 3, set, full);
  }
  barrier_wait(full, 0);
  for (int i = threadIdx.x; i < BYTES / 16; i += kGroupThreads)
    output_of<uint4, BYTES / 16>(out)[i] = load_shared(reinterpret_cast<const uint4*>(box) + i);
}

// Four tiles of each warp from registers to rows 32 bytes apart, which lanes name in an order that mixes them.
__global__ void __launch_bounds__(kGroupThreads, 1)
    stmatrix_kernel(const unsigned char* in, unsigned char* out, GCN_PARAMS TensorMap) {
  constexpr int kPitch = 32;
  GCN_DYNAMIC_SHARED(shared);
  const uint32_t* mine = input_of<uint32_t, kGroupThreads * 4>(in) + threadIdx.x * 4;
  const int lane = int(threadIdx.x) % 32, first = int(threadIdx.x) - lane;
  const uint32_t words[4] = {mine[0], mine[1], mine[2], mine[3]};
  stmatrix_x4_trans(shared + (first + lane * 5 % 32) * kPitch, words);
  __syncwarp();
  output_of<uint4, kGroupThreads>(out)[threadIdx.x] = load_shared(reinterpret_cast<const uint4*>(shared + threadIdx.x * kPitch));
}

// Pairs of numbers -> what pack_relu makes of them, as numbers.
template <class E>
__global__ void __launch_bounds__(kGroupThreads, 1)
    pack_relu_kernel(const unsigned char* in, unsigned char* out, GCN_PARAMS TensorMap) {
  const float* mine = input_of<float, kGroupThreads * 2>(in) + threadIdx.x * 2;
  const uint32_t word = pack_relu(mine[0], mine[1], E{});
  E both[2];
  memcpy(both, &word, sizeof(word));
  for (int i = 0; i < 2; ++i) output_of<float, kGroupThreads * 2>(out)[threadIdx.x * 2 + i] = to_float(both[i]);
}

// Two blocks: each copies its half of the set to both, in two phases; the second waits until all threads of both blocks have
// read the first. The second phase exchanges the halves. The warps of a block have given registers to each other.
__global__ void __launch_bounds__(2 * kGroupThreads, 1)
    cluster_kernel(const unsigned char* in, unsigned char* out, GCN_PARAMS TensorMap) {
  constexpr int kHalf = 1024, kReaders = kGroupThreads;
  GCN_DYNAMIC_SHARED(shared);
  Barrier *full = reinterpret_cast<Barrier*>(shared + 2 * kHalf), *empty = full + 1;
  const int rank = cluster_rank(), set = int(blockIdx.x) / 2;
  if (threadIdx.x == 0) {
    barrier_init(full, 1);
    barrier_init(empty, 2 * kReaders);
    fence_barrier_init();
  }
  cluster_sync();
  if (threadIdx.x >= kReaders) {
    registers_release<24>();
    if (threadIdx.x == kReaders) {
      for (uint32_t phase = 0; phase < 2; ++phase) {
        barrier_wait(empty, phase ^ 1);
        barrier_expect(full, 2 * kHalf);
        const int half = rank ^ int(phase);
        copy_bulk_multicast(shared + rank * kHalf, in + (size_t(set) * 2 + half) * kHalf, kHalf, full, 3);
      }
    }
  } else {
    registers_take<240>();
    for (uint32_t phase = 0; phase < 2; ++phase) {
      barrier_wait(full, phase);
      uint4* to = reinterpret_cast<uint4*>(out) + ((size_t(set) * 2 + rank) * 2 + phase) * (2 * kHalf / 16);
      to[threadIdx.x] = load_shared(reinterpret_cast<const uint4*>(shared) + threadIdx.x);
      barrier_arrive(empty);
      barrier_arrive_at(empty, rank ^ 1);
    }
  }
  cluster_sync();
}

template <class M, int N, int kLayoutA, int kLayoutB>
constexpr HopperCase wgmma_case(const char* name) {
  return {name, wgmma_kernel<M, N, kLayoutA, kLayoutB>, kImages, 64 * N * 4, 1, {}};
}

template <class M, int N, int kLayoutB>
constexpr HopperCase wgmma_of_registers_case(const char* name) {
  return {name, wgmma_of_registers_kernel<M, N, kLayoutB>, kImages, 64 * N * 4, 1, {}};
}

inline constexpr HopperCase kHopperCases[] = {
    wgmma_case<Half, 64, 0, 0>("wgmma_half_64_0_0"),
    wgmma_case<Half, 64, 1, 1>("wgmma_half_64_1_1"),
    wgmma_case<Half, 64, 2, 2>("wgmma_half_64_2_2"),
    wgmma_case<Half, 64, 3, 3>("wgmma_half_64_3_3"),
    wgmma_case<Half, 64, 4, 4>("wgmma_half_64_4_4"),
    wgmma_case<Half, 64, 5, 5>("wgmma_half_64_5_5"),
    wgmma_case<Half, 64, 6, 6>("wgmma_half_64_6_6"),
    wgmma_case<Half, 64, 7, 7>("wgmma_half_64_7_7"),
    wgmma_case<BFloat16, 64, 8, 2>("wgmma_bfloat16_64_8_2"),
    wgmma_case<BFloat16, 64, 7, 9>("wgmma_bfloat16_64_7_9"),
    wgmma_case<Half, 72, 2, 2>("wgmma_half_72_2_2"),
    wgmma_case<BFloat16, 88, 2, 2>("wgmma_bfloat16_88_2_2"),
    wgmma_case<Half, 96, 2, 2>("wgmma_half_96_2_2"),
    wgmma_case<BFloat16, 112, 2, 2>("wgmma_bfloat16_112_2_2"),
    wgmma_case<Half, 72, 7, 9>("wgmma_half_72_7_9"),
    wgmma_case<BFloat16, 88, 7, 9>("wgmma_bfloat16_88_7_9"),
    wgmma_case<Half, 104, 7, 9>("wgmma_half_104_7_9"),
    wgmma_case<BFloat16, 120, 7, 9>("wgmma_bfloat16_120_7_9"),
    wgmma_case<BFloat16, 128, 2, 2>("wgmma_bfloat16_128_2_2"),
    wgmma_case<Half, 136, 2, 1>("wgmma_half_136_2_1"),
    wgmma_case<BFloat16, 144, 2, 1>("wgmma_bfloat16_144_2_1"),
    wgmma_case<Half, 168, 2, 1>("wgmma_half_168_2_1"),
    wgmma_case<BFloat16, 176, 2, 1>("wgmma_bfloat16_176_2_1"),
    wgmma_case<Half, 256, 8, 8>("wgmma_half_256_8_8"),
    wgmma_case<Tf32, 64, 2, 2>("wgmma_tf32_64_2_2"),
    wgmma_case<Tf32, 144, 2, 1>("wgmma_tf32_144_2_1"),
    wgmma_case<Tf32, 168, 0, 1>("wgmma_tf32_168_0_1"),
    wgmma_case<Half, 24, 8, 14>("wgmma_half_24_8_14"),
    wgmma_case<BFloat16, 24, 0, 14>("wgmma_bfloat16_24_0_14"),
    wgmma_case<Half, 64, 10, 14>("wgmma_half_64_10_14"),
    wgmma_case<BFloat16, 128, 11, 14>("wgmma_bfloat16_128_11_14"),
    wgmma_case<Half, 168, 12, 14>("wgmma_half_168_12_14"),
    wgmma_case<BFloat16, 176, 13, 14>("wgmma_bfloat16_176_13_14"),
    wgmma_of_registers_case<Half, 64, 0>("wgmma_half_64_registers_0"),
    wgmma_of_registers_case<BFloat16, 64, 8>("wgmma_bfloat16_64_registers_8"),
    wgmma_of_registers_case<BFloat16, 128, 0>("wgmma_bfloat16_128_registers_0"),
    wgmma_of_registers_case<Half, 128, 14>("wgmma_half_128_registers_14"),
    {"copy_bulk", bulk_kernel, 4096, 4096, 1, {}},
    {"copy_tensor_2d", tensor_kernel<2, 64 * 16>, 40 * 2 * 16, 64 * 16, 1, {nullptr, 2, 2, {40, 0}, {80}, {32, 16}, 64}},
    {"copy_tensor_3d",
     tensor_kernel<3, 32 * 24>,
     24 * 4 * 10,
     32 * 24,
     1,
     {nullptr, 4, 3, {24, 10, 0}, {96, 960}, {8, 24, 1}, 32}},
    {"copy_tensor_4d",
     tensor_kernel<4, 128 * 40>,
     40 * 2 * 48,
     128 * 40,
     1,
     {nullptr, 2, 4, {40, 8, 6, 0}, {480, 80, 3840}, {64, 8, 5, 1}, 128}},
    {"copy_tensor_4d_of_units",
     tensor_kernel<4, 16 * 128>,
     48 * 6 * 20,
     16 * 128,
     1,
     {nullptr, 2, 4, {24, 20, 6, 0}, {288, 48, 5760}, {8, 32, 4, 1}, 0}},
    {"cluster", cluster_kernel, 2048, 8192, 2, {}},
    {"stmatrix_x4_trans", stmatrix_kernel, kGroupThreads * 16, kGroupThreads * 16, 1, {}},
    {"pack_relu_half", pack_relu_kernel<Half>, kGroupThreads * 8, kGroupThreads * 8, 1, {}},
    {"pack_relu_bfloat16", pack_relu_kernel<BFloat16>, kGroupThreads * 8, kGroupThreads * 8, 1, {}},
};

// Runs a case on `sets` sets. The pointers are the device's.
inline cudaError_t run(const HopperCase& c, const unsigned char* in, unsigned char* out, unsigned sets, cudaStream_t stream) {
  TensorShape shape = c.shape;
  TensorMap map = {};
  if (shape.rank) {
    shape.data = in;
    shape.size[shape.rank - 1] = shape.rank == 2 ? uint64_t(sets) * 16 : sets;
    if (const cudaError_t error = encode(shape, &map)) return error;
  }
  constexpr size_t kShared = kImages + 2048;
  const int threads = c.kernel == cluster_kernel ? 2 * kGroupThreads : kGroupThreads;
  return launch_cluster(c.kernel, Launch{dim3(sets * c.cluster), threads, kShared, stream, false}, c.cluster, in, out, map);
}

}  // namespace gcn::cuda::calibration
