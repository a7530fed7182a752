// The engine with vectors of 16 floats. Standard headers come first: see for_avx512.inl.
#include <cstdint>
#include <cstring>
#include <utility>

#include "backend.h"
#include "plan.h"

#if GCN_FFT_HAVE_X86
#define GCN_FFT_BACKEND kAvx512Backend
#define GCN_FFT_SOURCE "engine_isa.inl"
#include "for_avx512.inl"
#endif
