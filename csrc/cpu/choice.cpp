#include "choice.h"

#include <limits>

namespace gcn::cpu {
namespace {

// Measured on one core of a Zen 4 at 3.7 GHz, as the engine's own cost model is; only ratios matter.
constexpr double kMultiplyAddsPerNs = 40;
constexpr double kDirectStartNs = 10e3, kFftStartNs = 25e3;
constexpr double kPrepareNsPerByte = 0.25;
constexpr double kImpossible = std::numeric_limits<double>::infinity();

double prepare_ns(const LinePlans& plans) {
  return kPrepareNsPerByte *
         static_cast<double>(plans.l1.spectra_bytes + plans.l2.spectra_bytes + plans.r1.spectra_bytes + plans.r2.spectra_bytes);
}

}  // namespace

Prediction predict_forward(const Problem& p, const LinePlans& plans, bool spectra_cached) {
  const int64_t first = p.c * (p.k1 * p.m_l + p.k3 * p.m_r), second = p.o * (p.k2 * p.m_l + p.k4 * p.m_r);
  Prediction prediction;
  prediction.direct_ns = kDirectStartNs + static_cast<double>(p.pixels() * (first + second)) / kMultiplyAddsPerNs;
  prediction.fft_ns =
      plans.possible() ? kFftStartNs + plans.nanoseconds() + (spectra_cached ? 0 : prepare_ns(plans)) : kImpossible;
  return prediction;
}

Prediction predict_backward(const Problem& p, const BackwardPlans& plans, const Wanted& wanted) {
  const int64_t left1 = p.c * p.k1 * p.m_l, right1 = p.c * p.k3 * p.m_r;
  const int64_t left2 = p.o * p.k2 * p.m_l, right2 = p.o * p.k4 * p.m_r;
  const bool du_l = wanted.any(kX, kWl1, kBl1), du_r = wanted.any(kX, kWr1, kBr1);
  const int64_t multiply_adds = wanted(kX) * (left1 + right1) + wanted(kWl1) * left1 + wanted(kWr1) * right1 + du_l * left2 +
                                du_r * right2 + wanted(kWl2) * left2 + wanted(kWr2) * right2;
  const LinePlans &in = plans.input, &weight = plans.weight;
  Prediction prediction;
  prediction.direct_ns = kDirectStartNs + static_cast<double>(p.pixels() * multiply_adds) / kMultiplyAddsPerNs;
  prediction.fft_ns = kFftStartNs + prepare_ns(in) + wanted(kX) * (in.l1.nanoseconds + in.r1.nanoseconds) +
                      du_l * in.l2.nanoseconds + du_r * in.r2.nanoseconds + wanted(kWl1) * weight.l1.nanoseconds +
                      wanted(kWr1) * weight.r1.nanoseconds + wanted(kWl2) * weight.l2.nanoseconds +
                      wanted(kWr2) * weight.r2.nanoseconds;
  if (!plans.possible()) prediction.fft_ns = kImpossible;
  return prediction;
}

void check_algorithm(const std::string& algo) {
  check(algo == "auto" || algo == "direct" || algo == "fft", "algo: expected auto, direct or fft, got ", algo);
}

bool use_fft(const std::string& algo, const Prediction& prediction) {
  if (algo == "direct") return false;
  if (algo == "auto") return prediction.fft_ns < prediction.direct_ns;
  check(prediction.fft_ns != kImpossible,
        "algo='fft' cannot do this problem: it needs a dtype other than float64, kernels up to about 280 and a compiler with "
        "vector "
        "extensions; use algo='auto'");
  return true;
}

}  // namespace gcn::cpu
