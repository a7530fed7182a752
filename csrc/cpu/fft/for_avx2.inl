// Compiles GCN_FFT_SOURCE with vectors of 8 floats. All standard headers come before this file: nothing of theirs may be
// compiled for this instruction set, since the linker would share it with code that runs elsewhere.
#include <immintrin.h>

#define GCN_FFT_ISA avx2
#define GCN_FFT_VECTOR_BYTES 32

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include GCN_FFT_SOURCE
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include GCN_FFT_SOURCE
#pragma GCC pop_options
#endif
