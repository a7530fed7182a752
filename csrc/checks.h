// Checks of what a caller handed over. A failure becomes a RuntimeError that says what is wrong and nothing else:
// STD_TORCH_CHECK would put the name of a C++ function and the path of a source file first.
#pragma once

#include <sstream>
#include <stdexcept>

namespace gcn {

// The parts of the message are printed one after the other, and only on failure.
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (holds) [[likely]]
    return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace gcn
