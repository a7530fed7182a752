// Large results on huge pages.
//
// A result of many megabytes lies in memory fresh from the system. In pages of 4 KB each of them costs a fault, which for a map
// of 22 MB took longer than reading its input; in pages of 2 MB, where the system gives them on request, a fifth.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "map.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gcn::cpu {

// Asks for huge pages for what of a new tensor covers whole ones. Nothing depends on whether there are any.
inline void prefer_huge_pages(const torch::stable::Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const auto begin = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
  uintptr_t bytes = 0;
  with_storage_type(t.scalar_type(), [&](auto element) { bytes = static_cast<uintptr_t>(t.numel()) * sizeof element; });
  const uintptr_t first = (begin + kPage - 1) / kPage, end = (begin + bytes) / kPage;
  if (end > first) madvise(reinterpret_cast<void*>(first * kPage), (end - first) * kPage, MADV_HUGEPAGE);
#else
  (void)t;
#endif
}

}  // namespace gcn::cpu
