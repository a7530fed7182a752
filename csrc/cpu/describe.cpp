// What the CPU kernels would do with a problem, as JSON, and the state of the spectra cache.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "choice.h"
#include "spare_memory.h"
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

void write(std::ostream& out, const Prediction& p) {
  out << "\"algo\": \"" << (use_fft("auto", p) ? "fft" : "direct") << "\", \"direct_ms\": " << p.direct_ns * 1e-6
      << ", \"fft_ms\": ";
  std::isfinite(p.fft_ns) ? out << p.fft_ns * 1e-6 : out << "null";
}

// sizes: n, c, h, w, m_l, m_r, o, k1, k2, k3, k4
std::string plan(const std::vector<int64_t> s, bool float64, bool spectra_cached) {
  const Problem p = problem_of(s, float64 ? ScalarType::Double : ScalarType::Float);
  const LinePlans forward = plan_forward(p);
  const BackwardPlans backward = plan_backward(p);
  std::ostringstream out;
  out << "{\"forward\": {";
  write(out, predict_forward(p, forward, spectra_cached));
  write(out << ", ", "fft", forward, "");
  out << "}, \"backward\": {";
  write(out, predict_backward(p, backward, Wanted((1 << kGradients) - 1)));
  write(out << ", ", "fft_input_gradients", backward.input, ", ");
  write(out, "fft_weight_gradients", backward.weight, "");
  out << "}}";
  return out.str();
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
  m.impl("cpu_spectra_cache", TORCH_BOX(&spectra_cache));
}

}  // namespace gcn::cpu
