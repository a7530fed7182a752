// What a pass of the block costs by each method, in nanoseconds: PyTorch's own convolutions, the direct method, the
// frequency domain.
//
// Each method's time is a sum of terms that follow from the sizes, each with a constant that was fitted to measurements:
// medians of `benchmarks/bench_drawn.py --algo direct fft` on two cores of a Zen 4 server (AVX-512 with bfloat16 dot
// products), torch 2.13, both layouts, inference and training steps of about 300 problems in float32 and bfloat16 and 100 in
// float64 and float16 (C 8-2048, M and O 1-512, k 3-63, maps 8-256, up to 4 GFLOP forward). The fit is non-negative least
// squares on relative errors; what a call costs PyTorch in float32 was fitted again on an idle machine, where it is half of what
// it is beside other work. A backward pass is the difference of a step and a forward pass. On problems that were not fitted,
// nine predictions in ten lie within a factor of 0.65 to 1.3 of the measured time; what the choice makes of that is in
// choice.h. Only ratios matter elsewhere: on another processor the numbers differ, but mostly all alike.
#pragma once

#include "gcn.h"

namespace gcn::cpu {

// Backward: all nine gradients. PyTorch's: the four convolutions with the map and the weights in NCHW or channels_last.
double torch_forward_ns(const Problem& p, bool channels_last);
double torch_backward_ns(const Problem& p, bool channels_last);

double direct_forward_ns(const Problem& p);
double direct_backward_ns(const Problem& p);

// Infinite where the frequency domain cannot do the problem.
double fft_forward_ns(const Problem& p, const LinePlans& plans, bool spectra_cached);
double fft_backward_ns(const Problem& p, const BackwardPlans& plans);

}  // namespace gcn::cpu
