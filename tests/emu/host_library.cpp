// The host file of the first operator as it is, over emulated kernels.
// clang-format off: the first gives names for the second
#include "emulated_host.h"
#include "../../csrc/cuda/gcn/gcn_cuda.cpp"
