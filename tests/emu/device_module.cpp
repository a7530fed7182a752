// Python's way to the calibration kernels in the emulator.
#include <pybind11/pybind11.h>

#include <cstring>
#include <string>
#include <vector>

#include "calibration.cuh"
#include "hopper_calibration.cuh"
#include "python_emulator.h"

namespace py = pybind11;
using namespace gcn::cuda;

// What there is to see without a bug: nothing. Neighbours write neighbouring halves of words, and a warp hands over by
// __syncwarp.
__global__ void sound_kernel(int) {
  GCN_DYNAMIC_SHARED(shared);
  uint16_t* halves = reinterpret_cast<uint16_t*>(shared);
  store_shared(halves + threadIdx.x, static_cast<uint16_t>(threadIdx.x));
  __syncwarp();
  const uint16_t neighbours = load_shared(halves + (threadIdx.x ^ 1));
  __syncwarp();
  store_shared(halves + (threadIdx.x ^ 1), neighbours);
  __syncthreads();
  load_shared(halves + (threadIdx.x + 32) % blockDim.x);
}

namespace {

template <class Cases>
py::bytes run_among(const Cases& cases, const std::string& name, const std::string& input) {
  for (const auto& c : cases) {
    if (name != c.name) continue;
    if (input.size() % c.input_bytes) throw std::invalid_argument(name + ": the input is no whole number of sets");
    const size_t sets = input.size() / c.input_bytes;
    // Vectors of the widest type: kernels load 16 bytes at once.
    std::vector<uint4> in(input.size() / sizeof(uint4) + 1), out(sets * c.output_bytes / sizeof(uint4) + 1);
    std::memcpy(in.data(), input.data(), input.size());
    std::memset(out.data(), 0xFF, sets * c.output_bytes);
    const DeclaredMemory written({{out.data(), sets * c.output_bytes}});
    calibration::run(c, reinterpret_cast<unsigned char*>(in.data()), reinterpret_cast<unsigned char*>(out.data()),
                     static_cast<unsigned>(sets), nullptr);
    return {reinterpret_cast<const char*>(out.data()), sets * c.output_bytes};
  }
  throw std::invalid_argument(name + ": no such calibration");
}

py::bytes run_calibration(const std::string& name, const std::string& input) {
  return run_among(calibration::kCases, name, input);
}
py::bytes run_hopper_calibration(const std::string& name, const std::string& input) {
  return run_among(calibration::kHopperCases, name, input);
}

void launch_sound(unsigned x, unsigned y, unsigned z, int threads, size_t shared_bytes) {
  launch(sound_kernel, Launch{dim3(x, y, z), threads, shared_bytes, nullptr, false}, 0);
}

}  // namespace

PYBIND11_MODULE(emu_device, m) {
  bind_emulator(m);
  m.def("run_calibration", &run_calibration);
  m.def("run_hopper_calibration", &run_hopper_calibration);
  m.def("launch_sound", &launch_sound);
}
