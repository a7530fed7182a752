// Compiles GCN_FFT_SOURCE with vectors of 16 floats. All standard headers come before this file: nothing of theirs may be
// compiled for this instruction set, since the linker would share it with code that runs elsewhere.
#include <immintrin.h>

#define GCN_FFT_ISA avx512
#define GCN_FFT_VECTOR_BYTES 64

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), apply_to = function)
#include GCN_FFT_SOURCE
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,prefer-vector-width=512")
#include GCN_FFT_SOURCE
#pragma GCC pop_options
#endif
