// The engine with vectors of 4 floats, for any CPU: SSE2 or NEON through the compiler's vector types.
#include <type_traits>

#include "engine.h"

#if GCN_FFT_HAVE_VECTORS
#define GCN_FFT_ISA portable
#define GCN_FFT_VECTOR_BYTES 16
#define GCN_STRIPS_MAX_TAPS 5
#define GCN_STRIPS_POSITIONS 8
#define GCN_STRIPS_ENGINE kPortableEngine
#include "engine_isa.inl"
#endif
