// Which method carries out a pass: the one whose predicted time (cost.h) is least.
//
// Inside the operator that is the direct method or the frequency domain. PyTorch's own convolutions are a choice that is made
// before the operator is called, in Python (gcn_kernels/gcn/choice.py): there autograd keeps what they need in their own form,
// and the call costs what they cost.
#pragma once

#include <string>

#include "gcn.h"

namespace gcn::cpu {

struct Prediction {
  double direct_ns, fft_ns;  // fft_ns is infinite where the frequency domain cannot do it

  double least() const { return fft_ns < direct_ns ? fft_ns : direct_ns; }
};

struct ForwardChoice {
  LinePlans plans;
  Prediction prediction;
};
struct BackwardChoice {
  BackwardPlans plans;
  Prediction prediction;
};

// Planning takes some 10 to 100 us, so each thread keeps its last plans; a reference holds until the thread asks again.
const ForwardChoice& choose_forward(const Problem& p, bool spectra_cached);
// For all gradients, whichever are wanted: what is asked for beside it does not change a gradient.
const BackwardChoice& choose_backward(const Problem& p);

// algo is "auto", "direct" or "fft"; anything else is an error.
void check_algorithm(const std::string& algo);
bool use_fft(const std::string& algo, const Prediction& prediction);

// Whether PyTorch's convolutions are the better choice for inference, or for a training step with all its gradients. They are
// taken also where the operator is only a little faster by prediction, since they cannot be slower than themselves and a
// prediction can be wrong; and never where their backward pass may end the process.
bool prefer_torch(const Problem& p, bool channels_last, bool training);

}  // namespace gcn::cpu
