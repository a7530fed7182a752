// What every emulator module offers Python: the schedule, and Bug as an exception.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <utility>

#include "simt/runtime.h"

// Memory that launches write, for as long as this lives. See simt::declare_written.
class DeclaredMemory {
 public:
  explicit DeclaredMemory(std::initializer_list<std::pair<void*, size_t>> ranges) {
    for (const auto& [p, bytes] : ranges) declare(p, bytes);
  }
  DeclaredMemory(const DeclaredMemory&) = delete;
  ~DeclaredMemory() { simt::forget_written(); }
  void declare(void* p, size_t bytes) { simt::declare_written(p, bytes); }
};

// A random order starts from its seed at every launch.
inline void set_schedule(const std::string& order, uint64_t seed) {
  using Order = simt::Schedule::Order;
  if (order == "ascending") {
    simt::schedule = {Order::kAscending, seed};
  } else if (order == "descending") {
    simt::schedule = {Order::kDescending, seed};
  } else if (order == "random") {
    simt::schedule = {Order::kRandom, seed};
  } else {
    throw std::invalid_argument(order + ": expected ascending, descending or random");
  }
}

inline void bind_emulator(pybind11::module_& m) {
  pybind11::register_exception<simt::Bug>(m, "EmulatorBug", PyExc_RuntimeError);
  m.def("set_schedule", &set_schedule, pybind11::arg("order"), pybind11::arg("seed") = 0);
}
