// The engine with vectors of 8 floats. All standard headers come before the target pragma: nothing of theirs may be compiled for
// this instruction set, since the linker would share it with code that runs elsewhere.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine.h"

#if GCN_FFT_HAVE_X86
#include <immintrin.h>

#define GCN_FFT_ISA avx2
#define GCN_FFT_VECTOR_BYTES 32
#define GCN_STRIPS_MAX_TAPS 5
#define GCN_STRIPS_POSITIONS 8
#define GCN_STRIPS_ENGINE kAvx2Engine

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include "engine_isa.inl"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "engine_isa.inl"
#pragma GCC pop_options
#endif
#endif
