// The host file of boundary refinement as it is, over emulated kernels.
// clang-format off: the first gives names for the second
#include "emulated_host.h"
#include "../../csrc/cuda/refine/refine_cuda.cpp"
