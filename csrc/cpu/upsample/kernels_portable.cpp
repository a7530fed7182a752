// The kernels with vectors of 4 floats, for any CPU: SSE2 or NEON through the compiler's vector types.
#include <cstring>

#include "kernels.h"

#if GCN_FFT_HAVE_VECTORS
#define GCN_FFT_ISA portable
#define GCN_FFT_VECTOR_BYTES 16
#define GCN_UPSAMPLE_KERNELS kPortableKernels
#include "kernels_isa.inl"
#endif
