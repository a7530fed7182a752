// The host file of the doubling as it is, over emulated kernels.
// clang-format off: the first gives names for the second
#include "emulated_host.h"
#include "../../csrc/cuda/upsample/upsample_cuda.cpp"
