// What stands between the host files of the CUDA operators and emulated kernels: they become operators of the namespace
// gcn_emulated on the CPU. The folder host/ stands for the CUDA runtime, and the definitions below for what PyTorch has only with
// a GPU.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <cstdint>

// The library is registered under other names than the real one.
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) _STABLE_TORCH_LIBRARY_IMPL(gcn_emulated, CPU, m, C10_UID)
#define aoti_torch_get_current_cuda_stream emulated_stream
static int32_t emulated_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

namespace torch::stable::accelerator {
struct NoGuard {
  explicit NoGuard(int) {}
  ~NoGuard() {}
};
}  // namespace torch::stable::accelerator
#define DeviceGuard NoGuard
