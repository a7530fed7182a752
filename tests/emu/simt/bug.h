// What the emulator throws when it has caught a kernel at something that is undefined on a GPU.
#pragma once

#include <stdexcept>
#include <string>

namespace simt {

struct Bug : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws a Bug that names the kernel, and the block and thread that run.
[[noreturn]] void report(const std::string& what);

}  // namespace simt
