// What the CPU kernels would do with a problem, as JSON, and the state of the spectra cache.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "../spare_memory.h"
#include "choice.h"
#include "cost.h"
#include "spectra_cache.h"

namespace gcn::cpu {
namespace {

const char* isa_name(fft::Isa isa) { return isa == fft::Isa::kAvx512 ? "avx512" : isa == fft::Isa::kAvx2 ? "avx2" : "portable"; }

void write(std::ostream& out, const char* name, const fft::Plan& p, const char* end) {
  out << '"' << name << "\": {\"isa\": \"" << isa_name(p.isa) << "\", \"transform_length\": " << p.length
      << ", \"blocks\": " << p.blocks << ", \"units\": " << p.units << ", \"splits\": " << p.splits
      << ", \"ms\": " << p.nanoseconds * 1e-6 << ", \"spectra_bytes\": " << p.spectra_bytes
      << ", \"workspace_bytes\": " << p.workspace_bytes << '}' << end;
}

void write(std::ostream& out, const char* name, const LinePlans& plans, const char* end) {
  out << '"' << name << "\": {";
  if (plans.possible()) {
    write(out, "l1", plans.l1, ", ");
    write(out, "l2", plans.l2, ", ");
    write(out, "r1", plans.r1, ", ");
    write(out, "r2", plans.r2, "");
  }
  out << '}' << end;
}

void write_ms(std::ostream& out, const char* name, double ns) {
  out << '"' << name << "\": ";
  std::isfinite(ns) ? out << ns * 1e-6 : out << "null";
  out << ", ";
}

ScalarType dtype_of(const std::string& name) {
  if (name == "float32") return ScalarType::Float;
  if (name == "float64") return ScalarType::Double;
  if (name == "bfloat16") return ScalarType::BFloat16;
  check(name == "float16", "dtype: expected float32, float64, bfloat16 or float16, got ", name);
  return ScalarType::Half;
}

// Where PyTorch's convolutions are a choice, `torch_layout` holds whether they run in channels_last.
std::string describe(const Problem& p, bool spectra_cached, std::optional<bool> torch_layout) {
  const ForwardChoice forward = choose_forward(p, spectra_cached);
  const BackwardChoice backward = choose_backward(p);
  std::ostringstream out;
  const auto write_choice = [&](const Prediction& prediction, bool training) {
    const bool torch = torch_layout && prefer_torch(p, *torch_layout, training);
    out << "\"algo\": \"" << (torch ? "torch" : use_fft("auto", prediction) ? "fft" : "direct") << "\", ";
    write_ms(out, "direct_ms", prediction.direct_ns);
    write_ms(out, "fft_ms", prediction.fft_ns);
    if (torch_layout)
      write_ms(out, "torch_ms", training ? torch_backward_ns(p, *torch_layout) : torch_forward_ns(p, *torch_layout));
  };
  out << "{\"forward\": {";
  write_choice(forward.prediction, false);
  write(out, "fft", forward.plans, "");
  out << "}, \"backward\": {";
  write_choice(backward.prediction, true);
  write(out, "fft_input_gradients", backward.plans.input, ", ");
  write(out, "fft_weight_gradients", backward.plans.weight, "");
  out << "}}";
  return out.str();
}

// sizes: n, c, h, w, m_l, m_r, o, k1, k2, k3, k4
std::string plan(const std::vector<int64_t> sizes, bool float64, bool spectra_cached) {
  return describe(problem_of(sizes, float64 ? ScalarType::Double : ScalarType::Float), spectra_cached, std::nullopt);
}

std::string plan_with_torch(const std::vector<int64_t> sizes, const std::string& dtype, bool channels_last) {
  return describe(problem_of(sizes, dtype_of(dtype)), true, channels_last);
}

bool prefers_torch(const std::vector<int64_t> sizes, const std::string& dtype, bool channels_last, bool training) {
  return prefer_torch(problem_of(sizes, dtype_of(dtype)), channels_last, training);
}

int64_t spectra_cache(bool clear) {
  if (clear) {
    SpectraCache::instance().clear();
    release_spare_memory();
  }
  return SpectraCache::instance().bytes();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_plan", TORCH_BOX(&plan));
  m.impl("cpu_plan_with_torch", TORCH_BOX(&plan_with_torch));
  m.impl("cpu_prefers_torch", TORCH_BOX(&prefers_torch));
  m.impl("cpu_spectra_cache", TORCH_BOX(&spectra_cache));
}

}  // namespace gcn::cpu
