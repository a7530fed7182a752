// Python's way to the example product.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstring>

#include "example_driver.h"
#include "python_emulator.h"

namespace py = pybind11;

namespace {

using Bits = py::array_t<uint16_t, py::array::c_style>;  // of 16-bit elements

// a [M, K], b [K, N] -> [M, N]. A dependent launch takes its operands from the launch before it.
py::array_t<float> gemm(const Bits& a, const Bits& b, bool bfloat16, bool dependent) {
  const int M = static_cast<int>(a.shape(0)), K = static_cast<int>(a.shape(1)), N = static_cast<int>(b.shape(1));
  py::array_t<float> c({M, N});
  std::memset(c.mutable_data(), 0xFF, static_cast<size_t>(c.nbytes()));
  Bits written_a = a, written_b = b;
  const DeclaredMemory written({{written_a.mutable_data(), static_cast<size_t>(a.nbytes())},
                                {written_b.mutable_data(), static_cast<size_t>(b.nbytes())},
                                {c.mutable_data(), static_cast<size_t>(c.nbytes())}});
  run_example(a.data(), b.data(), c.mutable_data(), M, N, K, bfloat16, dependent);
  return c;
}

}  // namespace

PYBIND11_MODULE(emu_example, m) {
  bind_emulator(m);
  m.def("gemm", &gemm, py::arg("a"), py::arg("b"), py::arg("bfloat16") = false, py::arg("dependent") = false);
}
