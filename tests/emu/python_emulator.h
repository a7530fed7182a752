// What every emulator module offers Python: the schedule, and Bug as an exception.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
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

// The kernels launched since the last call, by their full names.
inline pybind11::list take_launched() {
  pybind11::list names;
  for (const void* kernel : simt::launched) names.append(simt::full_name(kernel));
  simt::launched.clear();
  return names;
}

// The kernels with this fault run from now on in the place of the sound ones; 0: none do.
inline void choose_fault(int fault) {
  bool known = fault == 0;
  for (const simt::Planted& p : simt::all_planted()) known |= p.fault == fault;
  if (!known) throw std::invalid_argument("fault " + std::to_string(fault) + " is not planted in this module");
  simt::chosen_fault = fault;
}
// Of all launches since the last time.
inline uint64_t take_operations() { return std::exchange(simt::operations, 0); }

inline void bind_emulator(pybind11::module_& m) {
  pybind11::register_exception<simt::Bug>(m, "EmulatorBug", PyExc_RuntimeError);
  m.def("set_schedule", &set_schedule, pybind11::arg("order"), pybind11::arg("seed") = 0);
  m.def("take_launched", &take_launched);
  m.def("choose_fault", &choose_fault);
  m.def("take_operations", &take_operations);
}
