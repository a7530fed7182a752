// Units of work on torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace gcn::cpu {

// f(i) once for every i in [0, count), on threads that take the next unit when they are free. Where there are several
// threads this is always a parallel region, also for one unit: inside of it matrix products stay on their thread, and what
// they sum in which order does not depend on how many threads there are.
template <class F>
void for_each_unit(int64_t count, const F& f) {
  const int64_t threads = torch::stable::get_num_threads();
  if (threads == 1) {
    for (int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::clamp<int64_t>(count, 2, threads), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) f(i);
  });
}

// The same, with neighbouring units on one thread, the same in every call: what a map's rows were written to is still in the
// cache of the core that works on them next. A thread that is through takes what is left of the others'.
template <class F>
void for_each_unit_in_shares(int64_t count, const F& f) {
  const int64_t threads = torch::stable::get_num_threads();
  if (threads == 1) {
    for (int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  const int64_t shares = std::clamp<int64_t>(count, 2, threads);
  std::vector<std::atomic<int64_t>> next(static_cast<size_t>(shares));
  const auto begin = [&](int64_t share) { return share * count / shares; };
  for (int64_t share = 0; share < shares; ++share) next[share] = begin(share);
  torch::stable::parallel_for(0, shares, 1, [&](int64_t first, int64_t) {
    for (int64_t k = 0; k < shares; ++k) {
      const int64_t share = (first + k) % shares;
      for (int64_t i = next[share]++; i < begin(share + 1); i = next[share]++) f(i);
    }
  });
}

}  // namespace gcn::cpu
