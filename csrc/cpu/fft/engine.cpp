// Choice of the instruction set, scratch of the threads, and the public functions.
#include "engine.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../../environment.h"
#include "backend.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gcn::cpu {
namespace fft {
namespace {

const Backend* backend_of(Isa isa) {
#if GCN_FFT_HAVE_X86
  if (isa == Isa::kAvx512) return &kAvx512Backend;
  if (isa == Isa::kAvx2) return &kAvx2Backend;
#endif
#if GCN_FFT_HAVE_VECTORS
  return &kPortableBackend;
#else
  return nullptr;
#endif
}

// The one that the environment names, or the best that is available.
Isa default_isa() {
  constexpr const char* kVariable = "GCN_KERNELS_CPU_ISA";
  const int asked = choice_from_environment(kVariable, {"portable", "avx2", "avx512"});
  int best = 2;
  while (best > 0 && !isa_available((Isa)best)) best--;
  if (asked < 0) return (Isa)best;
  check(isa_available((Isa)asked), kVariable, ": this CPU or this build has no '", std::getenv(kVariable),
        "'; ask for one of those before it in portable, avx2, avx512, or unset the variable");
  return (Isa)asked;
}

std::atomic<Isa>& isa_in_use() {
  static std::atomic<Isa> isa{default_isa()};
  return isa;
}

}  // namespace

#if GCN_FFT_HAVE_VECTORS
namespace {

// On huge pages where the system gives them, since each transform touches as many pages as it has planes.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  void* get(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      data_ = nullptr;
      size_ = 0;
      const size_t rounded = (bytes + kPage - 1) / kPage * kPage;
      if (posix_memalign(&data_, kPage, rounded) != 0) throw std::bad_alloc();
#if defined(__linux__)
      madvise(data_, rounded, MADV_HUGEPAGE);
#endif
      std::memset(data_, 0, rounded);
      size_ = rounded;
    }
    return data_;
  }

 private:
  static constexpr size_t kPage = size_t{2} << 20;
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

void* thread_scratch(int64_t bytes) {
  static thread_local Scratch scratch;
  return scratch.get((size_t)bytes);
}

#endif

bool isa_available(Isa isa) {
#if GCN_FFT_HAVE_X86
  if (isa == Isa::kAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
  }
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if GCN_FFT_HAVE_VECTORS
  return isa == Isa::kPortable;
#else
  return false;
#endif
}

Isa active_isa() { return isa_in_use().load(std::memory_order_relaxed); }

bool set_isa(Isa isa) {
  if (!isa_available(isa)) return false;
  isa_in_use().store(isa, std::memory_order_relaxed);
  return true;
}

void prepare(const Plan& plan, const Filter& filter, float* spectra, const Parallel& parallel) {
  backend_of(plan.isa)->prepare(plan, filter, spectra, parallel);
}

void conv(const ConvCall* calls, int count, const Parallel& parallel) {
  if (count > 0) backend_of(calls[0].plan->isa)->conv(calls, count, parallel);
}

void wgrad(const WgradCall* calls, int count, const Parallel& parallel) {
  if (count > 0) backend_of(calls[0].plan->isa)->wgrad(calls, count, parallel);
}

}  // namespace fft
}  // namespace gcn::cpu
