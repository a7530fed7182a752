// The Hopper layer's face on a GPU: one PTX instruction per function, sm_90a. See hopper_device.cuh.
#pragma once

#include <cuda.h>

#ifdef GCN_DEBUG_BARRIERS
#include <cstdio>
#endif

namespace gcn::cuda {

using TensorMap = CUtensorMap;

GCN_DEVICE void barrier_init(Barrier* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}

GCN_DEVICE void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

GCN_DEVICE void barrier_arrive(Barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

GCN_DEVICE void barrier_arrive_at(Barrier* b, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(shared_address(b)),
      "r"(rank)
      : "memory");
}

GCN_DEVICE void barrier_expect(Barrier* b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}

// A wait that nothing ends stops the GPU for everybody. Built with GCN_DEBUG_BARRIERS, which GCN_KERNELS_DEBUG_BARRIERS=1 in the
// environment of a build sets, it ends after two seconds with a message and a trap.
#ifdef GCN_DEBUG_BARRIERS
GCN_DEVICE uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

GCN_DEVICE bool barrier_ended(Barrier* b, uint32_t parity) {
  uint32_t ended;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}"
      : "=r"(ended)
      : "r"(shared_address(b)), "r"(parity)
      : "memory");
  return ended != 0;
}

GCN_DEVICE void barrier_wait(Barrier* b, uint32_t parity) {
  constexpr uint64_t kLongest = 2000000000;
  const uint64_t start = nanoseconds();
  while (!barrier_ended(b, parity)) {
    if (nanoseconds() - start < kLongest) continue;
    printf("gcn_kernels: nothing has ended phase %u of the mbarrier at shared address %u within two seconds: block %u, warp %u\n",
           parity, shared_address(b), blockIdx.x, threadIdx.x / 32);
    __trap();
  }
}
#else
GCN_DEVICE void barrier_wait(Barrier* b, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra AGAIN;\n"
      "DONE:\n"
      "}" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}
#endif

GCN_DEVICE void copy_bulk(void* to, const void* from, uint32_t bytes, Barrier* b) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(b))
      : "memory");
}

GCN_DEVICE void copy_bulk_multicast(void* to, const void* from, uint32_t bytes, Barrier* b, uint32_t ranks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(b)), "h"(static_cast<uint16_t>(ranks))
      : "memory");
}

GCN_DEVICE void copy_tensor_2d(void* to, const TensorMap* map, int c0, int c1, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared_address(to)),
      "l"(map), "r"(c0), "r"(c1), "r"(shared_address(b))
      : "memory");
}

GCN_DEVICE void copy_tensor_3d(void* to, const TensorMap* map, int c0, int c1, int c2, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
          shared_address(to)),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(b))
      : "memory");
}

GCN_DEVICE void copy_tensor_4d(void* to, const TensorMap* map, int c0, int c1, int c2, int c3, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::
          "r"(shared_address(to)),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(shared_address(b))
      : "memory");
}

GCN_DEVICE void prefetch(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

GCN_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

GCN_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
GCN_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
GCN_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Keeps the compiler from moving reads of D in front of the wait.
template <int COUNT>
GCN_DEVICE void wgmma_results(float (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

template <int N>
GCN_DEVICE void registers_release() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg takes 24, 32 ... 256");
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
GCN_DEVICE void registers_take() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg takes 24, 32 ... 256");
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

GCN_DEVICE uint32_t pack_relu(float low, float high, Half) {
  uint32_t both;
  asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
GCN_DEVICE uint32_t pack_relu(float low, float high, BFloat16) {
  uint32_t both;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

GCN_DEVICE void stmatrix_x4_trans(void* row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

GCN_DEVICE void group_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

GCN_DEVICE int of_first_lane(int value) { return __shfl_sync(kFullWarp, value, 0); }

GCN_DEVICE int cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

GCN_DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// --- wgmma. An instruction names each register of D, so that each width has its own text, put together from tens of registers.

#define GCN_TEN(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define GCN_FIRST_TEN "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, "
#define GCN_D_30 GCN_FIRST_TEN GCN_TEN(1) GCN_TEN(2)
#define GCN_D_60 GCN_D_30 GCN_TEN(3) GCN_TEN(4) GCN_TEN(5)
#define GCN_D_80 GCN_D_60 GCN_TEN(6) GCN_TEN(7)
#define GCN_D_120 GCN_D_80 GCN_TEN(8) GCN_TEN(9) GCN_TEN(10) GCN_TEN(11)

#define GCN_IN4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define GCN_IN16(i) GCN_IN4(i), GCN_IN4(i + 4), GCN_IN4(i + 8), GCN_IN4(i + 12)
#define GCN_IN64(i) GCN_IN16(i), GCN_IN16(i + 16), GCN_IN16(i + 32), GCN_IN16(i + 48)

// WIDTH: N. D: the list of registers. A, B, ADD, TA, TB: numbers of the operands behind them.
#define GCN_WGMMA_16BIT(TYPE, NAME, WIDTH, D, A, B, ADD, TA, TB, ...)                                                           \
  template <int kTransA, int kTransB>                                                                                           \
  GCN_DEVICE void wgmma_of(float (&d)[WIDTH / 2], uint64_t a, uint64_t b, bool add, TYPE) {                                     \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #ADD ", 0;\nwgmma.mma_async.sync.aligned.m64n" #WIDTH "k16.f32." NAME \
                 "." NAME " {" D "}, %" #A ", %" #B ", add, 1, 1, %" #TA ", %" #TB ";\n}"                                       \
                 : __VA_ARGS__                                                                                                  \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kTransA), "n"(kTransB));                                     \
  }
#define GCN_WGMMA_TF32(WIDTH, D, A, B, ADD, ...)                                                                \
  template <int kTransA, int kTransB>                                                                           \
  GCN_DEVICE void wgmma_of(float (&d)[WIDTH / 2], uint64_t a, uint64_t b, bool add, Tf32) {                     \
    static_assert(!kTransA && !kTransB, "wgmma transposes numbers of 16 bits only");                            \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #ADD ", 0;\nwgmma.mma_async.sync.aligned.m64n" #WIDTH \
                 "k8.f32.tf32.tf32 {" D "}, %" #A ", %" #B ", add, 1, 1;\n}"                                    \
                 : __VA_ARGS__                                                                                  \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                                 \
  }
#define GCN_WGMMA(WIDTH, D, A, B, ADD, TA, TB, ...)                           \
  GCN_WGMMA_16BIT(Half, "f16", WIDTH, D, A, B, ADD, TA, TB, __VA_ARGS__)      \
  GCN_WGMMA_16BIT(BFloat16, "bf16", WIDTH, D, A, B, ADD, TA, TB, __VA_ARGS__) \
  GCN_WGMMA_TF32(WIDTH, D, A, B, ADD, __VA_ARGS__)

GCN_WGMMA(24, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11", 12, 13, 14, 15, 16, GCN_IN4(0), GCN_IN4(4), GCN_IN4(8))
GCN_WGMMA(64, GCN_D_30 "%30, %31", 32, 33, 34, 35, 36, GCN_IN16(0), GCN_IN16(16))
GCN_WGMMA(72, GCN_D_30 "%30, %31, %32, %33, %34, %35", 36, 37, 38, 39, 40, GCN_IN16(0), GCN_IN16(16), GCN_IN4(32))
GCN_WGMMA(88, GCN_D_30 GCN_TEN(3) "%40, %41, %42, %43", 44, 45, 46, 47, 48, GCN_IN16(0), GCN_IN16(16), GCN_IN4(32), GCN_IN4(36),
          GCN_IN4(40))
GCN_WGMMA(96, GCN_D_30 GCN_TEN(3) "%40, %41, %42, %43, %44, %45, %46, %47", 48, 49, 50, 51, 52, GCN_IN16(0), GCN_IN16(16),
          GCN_IN16(32))
GCN_WGMMA(104, GCN_D_30 GCN_TEN(3) GCN_TEN(4) "%50, %51", 52, 53, 54, 55, 56, GCN_IN16(0), GCN_IN16(16), GCN_IN16(32),
          GCN_IN4(48))
GCN_WGMMA(112, GCN_D_30 GCN_TEN(3) GCN_TEN(4) "%50, %51, %52, %53, %54, %55", 56, 57, 58, 59, 60, GCN_IN16(0), GCN_IN16(16),
          GCN_IN16(32), GCN_IN4(48), GCN_IN4(52))
GCN_WGMMA(120, GCN_D_30 GCN_TEN(3) GCN_TEN(4) "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59", 60, 61, 62, 63, 64, GCN_IN16(0),
          GCN_IN16(16), GCN_IN16(32), GCN_IN4(48), GCN_IN4(52), GCN_IN4(56))
GCN_WGMMA(128, GCN_D_60 "%60, %61, %62, %63", 64, 65, 66, 67, 68, GCN_IN64(0))
GCN_WGMMA(136, GCN_D_60 "%60, %61, %62, %63, %64, %65, %66, %67", 68, 69, 70, 71, 72, GCN_IN64(0), GCN_IN4(64))
GCN_WGMMA(144, GCN_D_60 GCN_TEN(6) "%70, %71", 72, 73, 74, 75, 76, GCN_IN64(0), GCN_IN4(64), GCN_IN4(68))
GCN_WGMMA(168, GCN_D_80 "%80, %81, %82, %83", 84, 85, 86, 87, 88, GCN_IN64(0), GCN_IN16(64), GCN_IN4(80))
GCN_WGMMA(176, GCN_D_80 "%80, %81, %82, %83, %84, %85, %86, %87", 88, 89, 90, 91, 92, GCN_IN64(0), GCN_IN16(64), GCN_IN4(80),
          GCN_IN4(84))
GCN_WGMMA(256, GCN_D_120 "%120, %121, %122, %123, %124, %125, %126, %127", 128, 129, 130, 131, 132, GCN_IN64(0), GCN_IN64(64))

// A is four registers of each lane. A0 ... A3, B, ADD: numbers of the operands behind D.
#define GCN_WGMMA_OF_REGISTERS_IN(TYPE, NAME, WIDTH, D, A0, A1, A2, A3, B, ADD, ...)                                            \
  GCN_DEVICE void wgmma_of(float (&d)[WIDTH / 2], const uint32_t (&a)[4], uint64_t b, bool add, TYPE) {                         \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #ADD ", 0;\nwgmma.mma_async.sync.aligned.m64n" #WIDTH "k16.f32." NAME \
                 "." NAME " {" D "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", add, 1, 1, 0;\n}"                       \
                 : __VA_ARGS__                                                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));                             \
  }
#define GCN_WGMMA_OF_REGISTERS(WIDTH, D, A0, A1, A2, A3, B, ADD, ...)                   \
  GCN_WGMMA_OF_REGISTERS_IN(Half, "f16", WIDTH, D, A0, A1, A2, A3, B, ADD, __VA_ARGS__) \
  GCN_WGMMA_OF_REGISTERS_IN(BFloat16, "bf16", WIDTH, D, A0, A1, A2, A3, B, ADD, __VA_ARGS__)

GCN_WGMMA_OF_REGISTERS(64, GCN_D_30 "%30, %31", 32, 33, 34, 35, 36, 37, GCN_IN16(0), GCN_IN16(16))
GCN_WGMMA_OF_REGISTERS(128, GCN_D_60 "%60, %61, %62, %63", 64, 65, 66, 67, 68, 69, GCN_IN64(0))

#undef GCN_WGMMA_OF_REGISTERS
#undef GCN_WGMMA_OF_REGISTERS_IN
#undef GCN_WGMMA
#undef GCN_WGMMA_TF32
#undef GCN_WGMMA_16BIT
#undef GCN_IN64
#undef GCN_IN16
#undef GCN_IN4
#undef GCN_D_120
#undef GCN_D_80
#undef GCN_D_60
#undef GCN_D_30
#undef GCN_FIRST_TEN
#undef GCN_TEN

template <int N, bool kTransA, bool kTransB, class M>
GCN_DEVICE void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add, M m) {
  wgmma_of<kTransA, kTransB>(d, a, b, add, m);
}
template <int N, class M>
GCN_DEVICE void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add, M m) {
  wgmma_of(d, a, b, add, m);
}

}  // namespace gcn::cuda
