// The engine with vectors of 8 floats. Standard headers come first: see for_avx2.inl.
#include <cstdint>
#include <cstring>
#include <utility>

#include "backend.h"
#include "plan.h"

#if GCN_FFT_HAVE_X86
#define GCN_FFT_BACKEND kAvx2Backend
#define GCN_FFT_SOURCE "engine_isa.inl"
#include "for_avx2.inl"
#endif
