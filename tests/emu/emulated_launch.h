// Launching a kernel in the emulator: it has run when this returns.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>

namespace gcn::cuda {

// A kernel that the environment variable names is refused, so that tests see what becomes of an error.
inline bool is_refused(const void* kernel) {
  const char* const name = std::getenv("GCN_EMULATOR_REFUSES");
  return name && ::simt::kernel_name(kernel).find(name) != std::string::npos;
}

inline cudaError_t clear_memory(void* to, size_t bytes, CUstream_st*) {
  std::memset(to, 0, bytes);
  return cudaSuccess;
}

template <class... A>
cudaError_t launch(void (*kernel)(A...), const Launch& how, std::type_identity_t<A>... arguments) {
  if (is_refused(reinterpret_cast<const void*>(kernel))) return launched(how, cudaErrorInvalidConfiguration);
  const auto chosen = ::simt::in_place_of(kernel);
  ::simt::run_grid({reinterpret_cast<const void*>(chosen),
                    [&] { chosen(arguments...); },
                    {how.grid.x, how.grid.y, how.grid.z},
                    how.threads,
                    how.shared_bytes,
                    how.dependent});
  return cudaSuccess;
}

}  // namespace gcn::cuda
