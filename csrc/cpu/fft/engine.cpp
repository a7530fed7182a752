// Choice of the instruction set, scratch of the threads, and the public functions.
#include "engine.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

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

Isa default_isa() {
  const char* names[] = {"portable", "avx2", "avx512"};
  const char* wanted = std::getenv("GCN_KERNELS_CPU_ISA");
  for (int i = 2; i >= 0; i--) {
    const Isa isa = (Isa)i;
    if (isa_available(isa) && (wanted == nullptr || std::strcmp(wanted, names[i]) == 0)) return isa;
  }
  return wanted && isa_available(Isa::kAvx2) && std::strcmp(wanted, "avx512") == 0 ? Isa::kAvx2 : Isa::kPortable;
}

std::atomic<Isa>& isa_in_use() {
  static std::atomic<Isa> isa{default_isa()};
  return isa;
}

// Aligned to 2 MB where the buffer is so large, since each transform touches as many pages as it has planes.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  void* get(size_t bytes) {
    if (bytes > size_) {
      constexpr size_t kPage = size_t{2} << 20;
      std::free(data_);
      size_ = 0;
      const size_t rounded = (bytes + kPage / 2 - 1) / (kPage / 2) * (kPage / 2);
#if defined(__linux__)
      data_ = std::aligned_alloc(kPage, (rounded + kPage - 1) / kPage * kPage);
      if (data_) madvise(data_, (rounded + kPage - 1) / kPage * kPage, MADV_HUGEPAGE);
#else
      data_ = std::aligned_alloc(64, rounded);
#endif
      if (!data_) throw std::bad_alloc();
      std::memset(data_, 0, rounded);
      size_ = rounded;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

void* thread_scratch(int64_t bytes) {
  static thread_local Scratch scratch;
  return scratch.get((size_t)bytes);
}

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
