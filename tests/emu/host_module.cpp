// What tests ask of the emulator behind a host file of torch operators, by names that ctypes finds in its library.
#include <algorithm>
#include <string>

#include "device.cuh"

extern "C" {

// Runs a planted fault from now on, or none: 0.
__attribute__((visibility("default"))) void choose_fault(int number) { simt::chosen_fault = number; }

// The order that threads run in from now on: ascending, or drawn from a seed.
__attribute__((visibility("default"))) void set_random_order(int seed) {
  using Order = simt::Schedule::Order;
  simt::schedule = {seed ? Order::kRandom : Order::kAscending, static_cast<uint64_t>(seed)};
}

// Names of the kernels launched since the last question, a line each.
__attribute__((visibility("default"))) const char* take_launched() {
  static std::string names;
  names.clear();
  for (const void* kernel : simt::launched) names += simt::full_name(kernel) + "\n";
  simt::launched.clear();
  return names.c_str();
}
}
