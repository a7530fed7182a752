// The device layer's face on a CPU: kernels' own source runs under a host compiler, and is watched while it runs.
//
// What is caught, as an exception that says what, in which kernel, block and thread:
//   races on shared memory, its bounds, alignment; copies read or overwritten before the wait that covers them, or still in
//   flight at the end; barriers and warp instructions that not all threads reach; launches that no GPU takes; dependent launches
//   that touch their predecessors' results too early (tried in a sample of a large launch's blocks). Shared memory starts as nan
//   and ends where the launch said it would. With AddressSanitizer and UBSan, every global access as well. All this holds for
//   accesses through the device layer; races do not depend on the order in which the threads were run.
//
// It is stricter than hardware where that keeps the rules simple: blocks are whole warps, all threads of a block reach every
// barrier, and all wait for dependencies together.
//
// What this cannot show:
//   that the reading of the PTX manual is right, which kernels and emulator share: the golden data of calibration.py, written by
//   a GPU, is for that; the asm of the PTX face, its constraints and clobbers; fences and weak memory beyond barriers; races
//   between blocks, and on global memory within one; the rounding inside tensor cores, which is modelled after publications;
//   registers, launch bounds, the shared memory of smaller GPUs; bank conflicts and speed.
#pragma once

#include <cstring>

#include "simt/cuda_names.h"
#include "simt/number_formats.h"
#include "simt/runtime.h"
#include "simt/tensor_core.h"

#define GCN_DEVICE inline
#define GCN_HOST_DEVICE inline
#define GCN_PARAMS const
#define GCN_DYNAMIC_SHARED(name) unsigned char* name = ::simt::running.shared->bytes()

namespace gcn::cuda {

using Half = ::simt::Half;
using BFloat16 = ::simt::BFloat16;

inline void require_aligned(const void* p, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % bytes)
    ::simt::report(std::string(what) + " is not aligned to " + std::to_string(bytes) + " bytes");
}

template <int BYTES>
void copy_async(void* shared, const void* global, bool valid) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async moves 4, 8 or 16 bytes");
  require_aligned(shared, BYTES, "the destination of copy_async");
  require_aligned(global, BYTES, "the source of copy_async");
  ++::simt::operations;
  ::simt::running.shared->start_copy(shared, BYTES, "copy_async", ::simt::accessor());
  ::simt::PendingCopy copy{shared, BYTES, {}};
  if (valid) std::memcpy(copy.data.data(), global, BYTES);
  ::simt::running.thread->open_copies.push_back(copy);
}

inline void copy_commit() {
  ::simt::Thread& me = *::simt::running.thread;
  me.copy_groups.push_back(std::move(me.open_copies));
  me.open_copies.clear();
}

template <int N>
void copy_wait() {
  auto& groups = ::simt::running.thread->copy_groups;
  while (groups.size() > N) {
    for (const ::simt::PendingCopy& copy : groups.front())
      ::simt::running.shared->land_copy(copy.to, copy.data.data(), copy.bytes, "copy_async, landing", ::simt::accessor());
    groups.erase(groups.begin());
  }
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { ::simt::ldmatrix<4, false>(r, row); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { ::simt::ldmatrix<4, true>(r, row); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) { ::simt::ldmatrix<2, false>(r, row); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) { ::simt::ldmatrix<2, true>(r, row); }

inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Half) {
  ::simt::mma<::simt::Fragments16<Half>>("mma.m16n8k16.f16", d, a, b);
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BFloat16) {
  ::simt::mma<::simt::Fragments16<BFloat16>>("mma.m16n8k16.bf16", d, a, b);
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Tf32) {
  ::simt::mma<::simt::FragmentsTf32>("mma.m16n8k8.tf32", d, a, b);
}

inline void mma_short(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, Half) {
  ::simt::mma_short<::simt::Fragments16<Half>>("mma.m16n8k8.f16", d, a0, a1, b);
}
inline void mma_short(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, BFloat16) {
  ::simt::mma_short<::simt::Fragments16<BFloat16>>("mma.m16n8k8.bf16", d, a0, a1, b);
}

template <class T>
T load_shared(const T* p) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  require_aligned(p, sizeof(T), "the address of load_shared");
  ++::simt::operations;
  ::simt::running.shared->read(p, sizeof(T), "load_shared", ::simt::accessor());
  return *p;
}

template <class T>
void store_shared(T* p, T value) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  require_aligned(p, sizeof(T), "the address of store_shared");
  ++::simt::operations;
  ::simt::running.shared->write(p, sizeof(T), "store_shared", ::simt::accessor());
  *p = value;
}

template <class T>
T load_global(const T* p) {
  require_aligned(p, alignof(T), "the address of load_global");
  return *p;
}

template <class T>
void store_global(T* p, T value) {
  require_aligned(p, alignof(T), "the address of store_global");
  *p = value;
}

template <class T>
struct ShuffleOperands {
  T value;
  int source;  // a lane
  T result;
};

template <class T>
T shuffle(const char* name, T value, int source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  ShuffleOperands<T> mine{value, source, T()};
  ::simt::warp_instruction(name, mine, [](const std::array<ShuffleOperands<T>*, ::simt::kWarpSize>& lanes) {
    for (ShuffleOperands<T>* lane : lanes) lane->result = lanes[static_cast<size_t>(lane->source)]->value;
  });
  return mine.result;
}

template <class T>
T shuffle_xor(T value, int lane_mask) {
  if (lane_mask < 0 || lane_mask >= ::simt::kWarpSize) ::simt::report("shuffle_xor with a mask outside 0 to 31");
  return shuffle("shuffle_xor", value, ::simt::running.thread->lane() ^ lane_mask);
}

// Lanes without a source keep their own value.
template <class T>
T shuffle_down(T value, int delta) {
  if (delta < 0 || delta >= ::simt::kWarpSize) ::simt::report("shuffle_down by less than 0 or more than 31");
  const int lane = ::simt::running.thread->lane();
  return shuffle("shuffle_down", value, lane + delta < ::simt::kWarpSize ? lane + delta : lane);
}

template <class T>
T broadcast(T value) {
  return shuffle("broadcast", value, 0);
}

template <class T>
T kept(T value) {
  return value;
}

inline uint32_t ballot(bool of_lane) {
  struct Operands {
    bool of_lane;
    uint32_t result;
  } mine{of_lane, 0};
  ::simt::warp_instruction("ballot", mine, [](const std::array<Operands*, ::simt::kWarpSize>& lanes) {
    uint32_t bits = 0;
    for (size_t i = 0; i < lanes.size(); ++i) bits |= uint32_t(lanes[i]->of_lane) << i;
    for (Operands* lane : lanes) lane->result = bits;
  });
  return mine.result;
}

// Blocks run one after the other.
inline uint32_t take_ticket(uint32_t* counter, uint32_t last) {
  if (*counter > last) ::simt::report("take_ticket: a counter that says more than there are tickets");
  const uint32_t before = *counter;
  *counter = before == last ? 0 : before + 1;
  return before;
}

inline void wait_for_dependencies() { ::simt::wait_for_dependencies(); }
inline void launch_dependents() {}

inline uint32_t bits_of(float x) { return ::simt::bit_cast<uint32_t>(x); }
inline float float_of(uint32_t bits) { return ::simt::bit_cast<float>(bits); }
inline uint32_t round_to_tf32(uint32_t bits) { return ::simt::round_to_tf32(bits); }

template <class T>
auto to_float(T x) {
  ++::simt::operations;
  if constexpr (sizeof(T) == 2) {
    return ::simt::widen(x);
  } else {
    return x;
  }
}

template <class T>
T from_float(Accumulator<T> x) {
  return x;
}
template <>
inline Half from_float<Half>(float x) {
  return ::simt::to_half(x);
}
template <>
inline BFloat16 from_float<BFloat16>(float x) {
  return ::simt::to_bfloat16(x);
}

}  // namespace gcn::cuda
