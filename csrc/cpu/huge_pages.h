// Large results in memory that is fresh from the system.
//
// In pages of 4 KB each costs a fault where it is first written, about a microsecond, and more where several threads write to the
// same page: for a map of 22 MB that took longer than reading its input. In pages of 2 MB, where the system gives them on
// request, it is a fifth; and what does not fill whole ones is brought in before, many pages with a call.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "map.h"
#include "parallel.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace gcn::cpu {

// Makes memory ready for a new tensor that is about to be written. Nothing depends on whether that works.
inline void prepare_pages(const torch::stable::Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, of Linux 5.14: older systems refuse it, older headers do not know it
  constexpr uintptr_t kPart = uintptr_t{256} << 10, kHugePage = uintptr_t{2} << 20;
  uintptr_t bytes = 0;
  with_storage_type(t.scalar_type(), [&](auto element) { bytes = static_cast<uintptr_t>(t.numel()) * sizeof element; });
  if (bytes < 4 * kPart) return;  // it lies where there has been memory before
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page, end = (begin + bytes) / page * page;
  // Allocators hand out what they have had before, and then what is fresh: the last page tells.
  unsigned char there = 1;
  if (mincore(reinterpret_cast<void*>(end - page), page, &there) != 0 || (there & 1)) return;
  const auto advise = [](uintptr_t from, uintptr_t to, int advice) {
    if (to > from) madvise(reinterpret_cast<void*>(from), to - from, advice);
  };
  advise((first + kHugePage - 1) / kHugePage * kHugePage, end / kHugePage * kHugePage, MADV_HUGEPAGE);
  for_each_unit(static_cast<int64_t>((end - first + kPart - 1) / kPart), [&](int64_t i) {
    const uintptr_t from = first + static_cast<uintptr_t>(i) * kPart;
    advise(from, std::min(from + kPart, end), kPopulateWrite);
  });
#else
  (void)t;
#endif
}

}  // namespace gcn::cpu
