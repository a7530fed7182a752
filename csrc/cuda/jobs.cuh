// Several jobs of different sizes in one launch: each has as many blocks as it has work for, and no block starts only to leave.
#pragma once

#include "device.cuh"

namespace gcn::cuda {

// Filled in by a launcher, a parameter of its kernel.
template <int kMost>
struct Jobs {
  int count = 0;
  unsigned end[kMost];  // of a job's blocks, which follow the blocks of the job before

  Jobs() {
    for (unsigned& e : end) e = ~0u;
  }
  void add(int64_t blocks) {
    end[count] = this->blocks() + unsigned(blocks);
    ++count;
  }
  unsigned blocks() const { return count ? end[count - 1] : 0; }
};

struct JobBlock {
  int job;
  unsigned block;  // of the job's own
};

template <int kMost>
GCN_DEVICE JobBlock find_job(const Jobs<kMost>& jobs, unsigned block) {
  JobBlock found{0, block};
#pragma unroll
  for (int i = 0; i + 1 < kMost; ++i) {
    if (block >= jobs.end[i]) found = {i + 1, block - jobs.end[i]};
  }
  return found;
}

}  // namespace gcn::cuda
