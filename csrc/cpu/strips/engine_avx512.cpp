// The engine with vectors of 16 floats. Standard headers come first: see for_avx512.inl.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine.h"

#if GCN_FFT_HAVE_X86
#define GCN_STRIPS_MAX_TAPS 11
#define GCN_STRIPS_POSITIONS 16
#define GCN_STRIPS_ENGINE kAvx512Engine
#define GCN_FFT_SOURCE "../strips/engine_isa.inl"
#include "../fft/for_avx512.inl"
#endif
