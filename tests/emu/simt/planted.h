// Kernels with a fault in them, which run in the place of the sound ones when a test asks for it. A module may hold many: each
// is compiled in a namespace of its own and says here whose place it takes. See ../planting.py.
#pragma once

#include <set>
#include <string>
#include <vector>

namespace simt {

struct Planted {
  int fault;
  std::string in_place_of;  // as full_name() has it
  const void* kernel;
};

inline std::vector<Planted>& all_planted() {
  static std::vector<Planted> all;
  return all;
}

// One of these to each planted kernel, at namespace scope.
struct Plant {
  Plant(int fault, const char* in_place_of, const void* kernel) { all_planted().push_back({fault, in_place_of, kernel}); }
};

inline int chosen_fault = 0;  // none
inline std::set<const void*> launched;

inline const void* found_in_place_of(const void* kernel) {
  launched.insert(kernel);
  if (chosen_fault == 0) return kernel;
  const std::string name = full_name(kernel);
  for (const Planted& p : all_planted()) {
    if (p.fault == chosen_fault && p.in_place_of == name) return p.kernel;
  }
  return kernel;
}

// What runs where `kernel` is launched. A planted kernel takes the same bytes, though its struct may be its namespace's own.
template <class... A>
auto in_place_of(void (*kernel)(A...)) -> void (*)(A...) {
  return reinterpret_cast<void (*)(A...)>(const_cast<void*>(found_in_place_of(reinterpret_cast<const void*>(kernel))));
}

}  // namespace simt
