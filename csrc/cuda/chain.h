// A chain of launches.
#pragma once

#include "operands.h"

namespace gcn::cuda {

// Launches one kernel after another; the first failure ends the chain. All but the first may overlap with the one before.
class Chain {
 public:
  explicit Chain(CUstream_st* stream) : stream_(stream) {}

  // `kernel`: its name, for whoever reads of a failure.
  template <class LaunchKernel>
  void then(const char* kernel, const LaunchKernel& launch) {
    if (error_ == 0) {
      failed_launch = {};
      error_ = launch(Stream{stream_, launched_});
      failed_launch.kernel = kernel;
    }
    launched_ = true;
  }
  int error() const { return error_; }

 private:
  CUstream_st* stream_;
  bool launched_ = false;
  int error_ = 0;
};

}  // namespace gcn::cuda
