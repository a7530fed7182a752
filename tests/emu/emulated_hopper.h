// The Hopper layer's face on a CPU; see csrc/cuda/gcn/hopper/hopper_device.cuh.
//
// What is caught beyond emulated_device.h: accesses to shared memory that no chain of barriers orders, by vector clocks; places
// that a copy in flight, or wgmma, uses too early, too late or without the fence between the proxies; barriers that are used
// before they are made, get too many arrivals, or end with bytes outstanding; waits that nothing can end; operands outside of
// shared memory or in the middle of a swizzled block; wgmma without its fence; blocks of a cluster that end too early. Each
// thread waits for dependencies by itself, and the launches before end when no other thread gets any further.
#pragma once

#include "emulated_launch.h"
#include "simt/hopper_machine.h"
#include "simt/hopper_products.h"

namespace gcn::cuda {

using TensorMap = TensorShape;

// A shared address as the hardware counts it: a place of 18 bits, with the alignment that the memory has, and from bit 24 on the
// block's rank in its cluster.
inline uint32_t shared_address(const void* p) {
  const size_t offset = static_cast<size_t>(static_cast<const unsigned char*>(p) - ::simt::running.shared->bytes());
  return ::simt::SharedMemory::address(offset) | static_cast<uint32_t>(::simt::cluster_machine().my_block()) << 24;
}

inline void barrier_init(Barrier* b, int arrivals) {
  require_aligned(b, 8, "an mbarrier");
  ::simt::cluster_machine().init(b, arrivals);
}
inline void fence_barrier_init() { ::simt::cluster_machine().fence_init(); }

inline ::simt::Mbarrier& own_barrier(const Barrier* b) {
  auto& machine = ::simt::cluster_machine();
  return machine.barrier(b, machine.my_block());
}
inline void barrier_arrive(Barrier* b) { ::simt::cluster_machine().arrive(own_barrier(b), 0); }
inline void barrier_arrive_at(Barrier* b, int rank) { ::simt::cluster_machine().arrive_at(b, rank); }
inline void barrier_expect(Barrier* b, uint32_t bytes) { ::simt::cluster_machine().arrive(own_barrier(b), bytes); }
inline void barrier_wait(Barrier* b, uint32_t parity) { ::simt::cluster_machine().wait(own_barrier(b), parity); }

inline void copy_bulk_multicast(void* to, const void* from, uint32_t bytes, Barrier* b, uint32_t ranks) {
  auto& machine = ::simt::cluster_machine();
  require_aligned(to, 16, "the destination of copy_bulk");
  require_aligned(from, 16, "the source of copy_bulk");
  if (bytes % 16 || bytes == 0) ::simt::report("copy_bulk of " + std::to_string(bytes) + " bytes");
  if (ranks == 0 || ranks >> machine.cluster()) ::simt::report("copy_bulk_multicast to blocks outside of the cluster");
  const size_t at = ::simt::running.shared->check(to, bytes, "copy_bulk");
  const auto* source = static_cast<const unsigned char*>(from);
  for (size_t rank = 0; rank < machine.cluster(); ++rank) {
    if (ranks >> rank & 1) machine.copy({rank, at, {source, source + bytes}, &machine.barrier(b, rank), {}});
  }
}
inline void copy_bulk(void* to, const void* from, uint32_t bytes, Barrier* b) {
  copy_bulk_multicast(to, from, bytes, b, 1u << ::simt::cluster_machine().my_block());
}

// The rows of a box follow each other; a row's units are permuted by the place at which they land.
inline void copy_tensor(void* to, const TensorMap& map, int rank, const std::array<int, 4>& corner, Barrier* b) {
  auto& machine = ::simt::cluster_machine();
  if (map.rank != rank)
    ::simt::report("a copy of " + std::to_string(rank) + " dimensions of a map of " + std::to_string(map.rank));
  require_aligned(map.data, 16, "the map of a tensor copy");
  const size_t row = size_t{map.box[0]} * static_cast<size_t>(map.element_bytes);
  if (row % 16) ::simt::report("a box whose rows are no multiple of 16 bytes");
  if (map.row_swizzle && map.row_swizzle != row) ::simt::report("a swizzled box whose rows are not as long as the swizzle");
  require_aligned(to, map.row_swizzle ? 8 * map.row_swizzle : 128, "the destination of a tensor copy");
  std::array<size_t, 4> box = {1, 1, 1, 1};
  for (int i = 0; i < rank; ++i) {
    box[static_cast<size_t>(i)] = map.box[i];
    if (map.box[i] < 1 || map.box[i] > 256) ::simt::report("a box of " + std::to_string(map.box[i]) + " elements in a dimension");
    if (i && map.stride[i - 1] % 16) ::simt::report("a map whose strides are no multiples of 16 bytes");
  }
  const size_t rows = box[1] * box[2] * box[3], start = ::simt::running.shared->check(to, rows * row, "a tensor copy");
  ::simt::EngineCopy copy{machine.my_block(), start, std::vector<unsigned char>(rows * row), &own_barrier(b), {}};
  for (size_t r = 0; r < rows; ++r) {
    const std::array<size_t, 4> in_box = {0, r % box[1], r / box[1] % box[2], r / box[1] / box[2]};
    bool inside = true;
    size_t from = 0;
    for (int i = 1; i < rank; ++i) {
      const int64_t at = corner[static_cast<size_t>(i)] + static_cast<int64_t>(in_box[static_cast<size_t>(i)]);
      inside = inside && at >= 0 && static_cast<uint64_t>(at) < map.size[i];
      from += static_cast<size_t>(at) * map.stride[i - 1];
    }
    for (size_t e = 0; inside && e < box[0]; ++e) {
      const int64_t at = corner[0] + static_cast<int64_t>(e);
      if (at < 0 || static_cast<uint64_t>(at) >= map.size[0]) continue;
      const size_t width = static_cast<size_t>(map.element_bytes);
      std::memcpy(copy.data.data() + r * row + e * width,
                  static_cast<const unsigned char*>(map.data) + from + static_cast<size_t>(at) * width, width);
    }
    for (size_t u = 0; u < row; u += 16) {
      const uint32_t address = ::simt::SharedMemory::address(start + r * row + u);
      const uint32_t mask = map.row_swizzle ? map.row_swizzle / 16 - 1 : 0;
      copy.places.push_back(::simt::SharedMemory::offset_of(address ^ ((address >> 7 & mask) << 4)));
    }
  }
  machine.copy(std::move(copy));
}
inline void copy_tensor_2d(void* to, const TensorMap* map, int c0, int c1, Barrier* b) {
  copy_tensor(to, *map, 2, {c0, c1, 0, 0}, b);
}
inline void copy_tensor_3d(void* to, const TensorMap* map, int c0, int c1, int c2, Barrier* b) {
  copy_tensor(to, *map, 3, {c0, c1, c2, 0}, b);
}
inline void copy_tensor_4d(void* to, const TensorMap* map, int c0, int c1, int c2, int c3, Barrier* b) {
  copy_tensor(to, *map, 4, {c0, c1, c2, c3}, b);
}

inline void prefetch(const TensorMap*) {}

inline void fence_async_proxy() {
  auto& machine = ::simt::cluster_machine();
  machine.clocks().fence(machine.my_warp());
}

inline void wgmma_fence() { ::simt::fence_products(); }
inline void wgmma_commit() { ::simt::commit_products(); }
template <int N>
void wgmma_wait() {
  ::simt::wait_for_products(N);
}

template <int COUNT>
void wgmma_results(float (&)[COUNT]) {}

template <class T>
void decode_16bit(const unsigned char* unit, double* numbers) {
  for (int i = 0; i < 8; ++i) {
    uint16_t bits;
    std::memcpy(&bits, unit + 2 * i, sizeof bits);
    numbers[i] = ::simt::widen(T{bits});
  }
}
inline void decode_tf32(const unsigned char* unit, double* numbers) {
  for (int i = 0; i < 4; ++i) {
    uint32_t bits;
    std::memcpy(&bits, unit + 4 * i, sizeof bits);
    numbers[i] = ::simt::cut_to_tf32(bits);
  }
}

template <int N, bool kTransA, bool kTransB, class M>
void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add, M) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "wgmma is 8, 16 ... 256 columns wide");
  if constexpr (std::is_same_v<M, Tf32>) {
    static_assert(!kTransA && !kTransB, "wgmma transposes numbers of 16 bits only");
    ::simt::issue_product({d, N, a, b, add, false, false, decode_tf32, 4});
  } else {
    ::simt::issue_product({d, N, a, b, add, kTransA, kTransB, decode_16bit<M>, 8});
  }
}

template <int N, class M>
void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add, M) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "wgmma is 8, 16 ... 256 columns wide");
  ::simt::issue_product({d, N, 0, b, add, false, false, decode_16bit<M>, 8, a, {a[0], a[1], a[2], a[3]}});
}

template <class E>
uint32_t pack_relu(float low, float high, E) {
  const auto bits = [](float x) { return uint32_t{::simt::bit_cast<uint16_t>(from_float<E>(x < 0 ? 0.0f : x))}; };
  return bits(low) | bits(high) << 16;
}

// Lane 4 j + t has numbers 2 t and 2 t + 1 of column j, as ldmatrix_x4_trans would bring them.
inline void stmatrix_x4_trans(void* row, const uint32_t (&r)[4]) {
  require_aligned(row, 16, "a row of stmatrix.x4.trans");
  ::simt::Accessor warp = ::simt::accessor();
  warp.thread = ::simt::kWholeWarp;
  ::simt::running.shared->write(row, 16, "stmatrix.x4.trans", warp);
  struct Operands {
    void* row;
    const uint32_t* registers;
  } mine{row, r};
  ::simt::warp_instruction("stmatrix.x4.trans", mine, [](const std::array<Operands*, ::simt::kWarpSize>& lanes) {
    for (size_t tile = 0; tile < 4; ++tile)
      for (size_t i = 0; i < 8; ++i) {
        uint16_t numbers[8];
        for (size_t column = 0; column < 8; ++column)
          numbers[column] = static_cast<uint16_t>(lanes[column * 4 + i / 2]->registers[tile] >> 16 * (i % 2));
        std::memcpy(lanes[8 * tile + i]->row, numbers, sizeof numbers);
      }
  });
}

template <int N>
void registers_release() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg takes 24, 32 ... 256");
}
template <int N>
void registers_take() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg takes 24, 32 ... 256");
}

inline void group_barrier(int id, int threads) { ::simt::cluster_machine().group_barrier(id, threads); }
inline int of_first_lane(int value) {
  const int first = shuffle("of_first_lane", value, 0);
  if (first != value) ::simt::report("of_first_lane of a value that differs between lanes");
  return first;
}
inline int cluster_rank() { return static_cast<int>(::simt::cluster_machine().my_block()); }
inline void cluster_sync() { ::simt::cluster_machine().cluster_sync(); }

inline cudaError_t encode(const TensorShape& shape, TensorMap* map) {
  *map = shape;
  return cudaSuccess;
}

template <class... A>
cudaError_t launch_cluster(void (*kernel)(A...), const Launch& how, int blocks, std::type_identity_t<A>... arguments) {
  if (is_refused(reinterpret_cast<const void*>(kernel))) return launched(how, cudaErrorInvalidConfiguration, blocks);
  const auto chosen = ::simt::in_place_of(kernel);
  ::simt::run_clusters({reinterpret_cast<const void*>(chosen),
                        [&] { chosen(arguments...); },
                        {how.grid.x, how.grid.y, how.grid.z},
                        how.threads,
                        how.shared_bytes,
                        how.dependent},
                       blocks);
  return cudaSuccess;
}

// As far as the emulator goes, all run one after the other.
template <class... A>
int clusters_side_by_side(void (*)(A...), const Launch&, int) {
  return 1;
}

}  // namespace gcn::cuda
