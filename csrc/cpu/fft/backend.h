// What one build of engine_isa.inl offers to engine.cpp, and what it needs from it.
#pragma once

#include "engine.h"

#if ((defined(__GNUC__) && __GNUC__ >= 12) || defined(__clang__)) && !defined(_MSC_VER)
#define GCN_FFT_HAVE_VECTORS 1
#if defined(__x86_64__)
#define GCN_FFT_HAVE_X86 1
#endif
#endif

namespace gcn::cpu {
namespace fft {

struct Backend {
  void (*prepare)(const Plan&, const Filter&, float* spectra, const Parallel&);
  void (*conv)(const ConvCall*, int count, const Parallel&);
  void (*wgrad)(const WgradCall*, int count, const Parallel&);
};

extern const Backend kPortableBackend, kAvx2Backend, kAvx512Backend;

// The calling thread's scratch, aligned to a cache line and finite everywhere. It grows on demand and lives
// as long as the thread.
void* thread_scratch(int64_t bytes);

}  // namespace fft
}  // namespace gcn::cpu
