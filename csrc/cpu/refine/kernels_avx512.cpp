// The kernels with vectors of 16 floats. Standard headers come first: see for_avx512.inl.
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels.h"

#if GCN_FFT_HAVE_X86
#define GCN_REFINE_KERNELS kAvx512Kernels
#define GCN_FFT_SOURCE "../refine/kernels_isa.inl"
#include "../fft/for_avx512.inl"
#endif
