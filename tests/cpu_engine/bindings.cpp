// The engine for Python, by addresses and strides. Threads come from OpenMP.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <vector>

#include "../../csrc/cpu/fft/engine.h"

namespace py = pybind11;
namespace fft = gcn::cpu::fft;

namespace {

int g_threads = 1;

void run_units(void*, int64_t count, void (*unit)(void*, int64_t), void* arg) {
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(g_threads)
  for (int64_t i; (i = next++) < count;) unit(arg, i);
}
const fft::Parallel kParallel = {run_units, nullptr};

struct Array {  // address, dtype, strides n c h w
  uintptr_t data;
  int dtype;
  std::vector<int64_t> strides;
};

fft::ConstImage const_image(const Array& a) {
  return {(const void*)a.data, (fft::DType)a.dtype, a.strides[0], a.strides[1], a.strides[2], a.strides[3]};
}
fft::Image image(const Array& a) {
  return {(void*)a.data, (fft::DType)a.dtype, a.strides[0], a.strides[1], a.strides[2], a.strides[3]};
}

struct Call {
  fft::Plan plan;
  Array in;
  uintptr_t spectra, bias;
  std::optional<Array> addend;
  Array out;
  uintptr_t workspace;
};

// Whether the engine could not tell a result, because it is not finite.
bool conv(const std::vector<Call>& calls) {
  std::atomic<bool> not_finite{false};
  std::vector<fft::ConstImage> addends(calls.size());
  std::vector<fft::ConvCall> list;
  for (size_t i = 0; i < calls.size(); i++) {
    const Call& c = calls[i];
    if (c.addend) addends[i] = const_image(*c.addend);
    list.push_back({&c.plan, const_image(c.in), (const float*)c.spectra, (const float*)c.bias, c.addend ? &addends[i] : nullptr,
                    image(c.out), (void*)c.workspace, &not_finite});
  }
  py::gil_scoped_release release;
  fft::conv(list.data(), (int)list.size(), kParallel);
  return not_finite;
}

}  // namespace

PYBIND11_MODULE(cpu_engine, m) {
  py::class_<Array>(m, "Array").def(py::init<uintptr_t, int, std::vector<int64_t>>());
  py::class_<fft::Plan>(m, "Plan")
      .def_readonly("possible", &fft::Plan::possible)
      .def_readwrite("length", &fft::Plan::length)
      .def_readonly("vectors", &fft::Plan::vectors)
      .def_readonly("reduction", &fft::Plan::reduction)
      .def_readonly("outputs", &fft::Plan::outputs)
      .def_readonly("output_parts", &fft::Plan::output_parts)
      .def_readonly("splits", &fft::Plan::splits)
      .def_readonly("taps", &fft::Plan::taps)
      .def_readonly("block", &fft::Plan::block)
      .def_readonly("blocks", &fft::Plan::blocks)
      .def_readonly("units", &fft::Plan::units)
      .def_readonly("merge_images", &fft::Plan::merge_images)
      .def_readonly("nanoseconds", &fft::Plan::nanoseconds)
      .def_readonly("spectra_bytes", &fft::Plan::spectra_bytes)
      .def_readonly("workspace_bytes", &fft::Plan::workspace_bytes);
  py::class_<Call>(m, "Call").def(py::init<fft::Plan, Array, uintptr_t, uintptr_t, std::optional<Array>, Array, uintptr_t>());
  m.def("set_threads", [](int n) { g_threads = n; });
  m.def("set_isa", [](int isa) { return fft::set_isa((fft::Isa)isa); });
  m.def("isa_available", [](int isa) { return fft::isa_available((fft::Isa)isa); });
  m.def("active_isa", [] { return (int)fft::active_isa(); });
  m.def("plan", [](bool wgrad, int axis, int64_t n, int64_t c, int64_t o, int64_t h, int64_t w, int64_t k) {
    const fft::Problem problem = {(fft::Axis)axis, n, c, o, h, w, k};
    return wgrad ? fft::plan_wgrad(problem) : fft::plan_conv(problem);
  });
  m.def("prepare", [](const fft::Plan& plan, const Array& filter, uintptr_t spectra) {
    py::gil_scoped_release release;
    fft::prepare(plan, {(const float*)filter.data, filter.strides[0], filter.strides[1], filter.strides[2]}, (float*)spectra,
                 kParallel);
  });
  m.def("conv", &conv);
  m.def("wgrad", [](const fft::Plan& plan, const Array& in, const Array& dout, const Array& grad, uintptr_t workspace) {
    std::atomic<bool> not_finite{false};
    const fft::WgradCall call = {&plan,
                                 const_image(in),
                                 const_image(dout),
                                 {(float*)grad.data, grad.strides[0], grad.strides[1], grad.strides[2]},
                                 (void*)workspace,
                                 &not_finite};
    py::gil_scoped_release release;
    fft::wgrad(&call, 1, kParallel);
    return not_finite.load();
  });
}
