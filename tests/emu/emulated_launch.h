// Launching a kernel in the emulator: it has run when this returns.
#pragma once

#include <type_traits>

namespace gcn::cuda {

template <class... A>
cudaError_t launch(void (*kernel)(A...), const Launch& how, std::type_identity_t<A>... arguments) {
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
