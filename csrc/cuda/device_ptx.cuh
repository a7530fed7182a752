// The device layer's face on a GPU: one PTX instruction per function, sm_80 and newer. See device.cuh.
//
// Instructions that touch memory are volatile and clobber it, which keeps their order among each other and against plain
// accesses; arithmetic is neither, so that the compiler may schedule it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define GCN_DEVICE __device__ __forceinline__
#define GCN_HOST_DEVICE __host__ __device__ __forceinline__
#define GCN_PARAMS const __grid_constant__
#define GCN_DYNAMIC_SHARED(name)                                 \
  extern __shared__ __align__(128) unsigned char name##_start[]; \
  unsigned char* name = name##_start

namespace gcn::cuda {

using Half = __half;
using BFloat16 = __nv_bfloat16;

GCN_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

template <int BYTES>
GCN_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async moves 4, 8 or 16 bytes");
  const uint32_t to = shared_address(shared);
  const int bytes_read = valid ? BYTES : 0;
  if constexpr (BYTES == 16) {  // past L1: nothing read once belongs there
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes_read) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES), "r"(bytes_read) : "memory");
  }
}

GCN_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
GCN_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

GCN_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

GCN_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

GCN_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

GCN_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

GCN_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

GCN_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BFloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

GCN_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Tf32) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

GCN_DEVICE void mma_short(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, Half) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(b));
}

GCN_DEVICE void mma_short(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, BFloat16) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(b));
}

template <class T>
GCN_DEVICE T load_shared(const T* p) {
  return *p;
}

template <class T>
GCN_DEVICE void store_shared(T* p, T value) {
  *p = value;
}

template <class T>
GCN_DEVICE T load_global(const T* p) {
  return *p;
}

// The compiler would take structs of small numbers apart.
GCN_DEVICE void store_words(void* p, uint2 v) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(v.x), "r"(v.y) : "memory");
}
GCN_DEVICE void store_words(void* p, uint4 v) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

template <class T>
GCN_DEVICE void store_global(T* p, T value) {
  if constexpr (sizeof(T) == 8 && alignof(T) == 8) {
    store_words(p, reinterpret_cast<const uint2&>(value));
  } else if constexpr (sizeof(T) == 16 && alignof(T) == 16) {
    store_words(p, reinterpret_cast<const uint4&>(value));
  } else {
    *p = value;
  }
}

constexpr unsigned kFullWarp = 0xffffffffu;

template <class T>
GCN_DEVICE T shuffle_xor(T value, int lane_mask) {
  return __shfl_xor_sync(kFullWarp, value, lane_mask);
}

template <class T>
GCN_DEVICE T shuffle_down(T value, int delta) {
  return __shfl_down_sync(kFullWarp, value, static_cast<unsigned>(delta));
}

template <class T>
GCN_DEVICE T broadcast(T value) {
  return __shfl_sync(kFullWarp, value, 0);
}

template <class T>
GCN_DEVICE T kept(T value) {
  static_assert(sizeof(T) == 4);
  asm volatile("" : "+r"(value));
  return value;
}

GCN_DEVICE uint32_t ballot(bool of_lane) { return __ballot_sync(kFullWarp, of_lane); }

GCN_DEVICE uint32_t take_ticket(uint32_t* counter, uint32_t last) {
  __threadfence();
  const uint32_t before = atomicInc(counter, last);
  __threadfence();
  return before;
}

GCN_DEVICE void wait_for_dependencies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

GCN_DEVICE void launch_dependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

GCN_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
GCN_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }

// To the nearest value of 11 significant bits, ties away from zero.
GCN_DEVICE uint32_t round_to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(float_of(bits)));
  return rounded;
}

GCN_DEVICE float to_float(Half x) { return __half2float(x); }
GCN_DEVICE float to_float(BFloat16 x) { return __bfloat162float(x); }
GCN_DEVICE float to_float(float x) { return x; }
GCN_DEVICE double to_float(double x) { return x; }

template <class T>
GCN_DEVICE T from_float(Accumulator<T> x) {
  return x;
}
template <>
GCN_DEVICE Half from_float<Half>(float x) {
  return __float2half_rn(x);
}
template <>
GCN_DEVICE BFloat16 from_float<BFloat16>(float x) {
  return __float2bfloat16_rn(x);
}

}  // namespace gcn::cuda
