// Units of work on torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

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

}  // namespace gcn::cpu
