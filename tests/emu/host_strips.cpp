// The host file of the depthwise strips as it is, over emulated kernels.
// clang-format off: the first gives names for the second
#include "emulated_host.h"
#include "../../csrc/cuda/strips/strips_cuda.cpp"
