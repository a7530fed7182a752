// Which algorithm carries out a pass: the one whose predicted time is less.
//
// The frequency domain's time comes from the engine's plans, plus the preparation of spectra that no earlier call left
// behind. The direct method's is its multiply-adds at the rate the linked matrix library reaches on tiles, which no plan of
// it can beat, plus what a tile costs to start.
#pragma once

#include <string>

#include "gcn.h"

namespace gcn::cpu {

struct Prediction {
  double direct_ns, fft_ns;  // of one core; fft_ns is infinite where the frequency domain cannot do it
};

Prediction predict_forward(const Problem& p, const LinePlans& plans, bool spectra_cached);
Prediction predict_backward(const Problem& p, const BackwardPlans& plans, const Wanted& wanted);

// algo is "auto", "direct" or "fft"; anything else is an error.
void check_algorithm(const std::string& algo);
bool use_fft(const std::string& algo, const Prediction& prediction);

}  // namespace gcn::cpu
