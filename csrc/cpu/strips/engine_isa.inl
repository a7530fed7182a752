// The engine for one instruction set; see ../fft/simd.h for what the including file sets. Besides that, GCN_STRIPS_MAX_TAPS and
// GCN_STRIPS_POSITIONS say what fits in its registers: a tap, a position and one more each take one.
#include "../fft/simd.h"
#include "engine.h"

namespace gcn::cpu::strips {
namespace GCN_FFT_ISA {

using namespace fft::GCN_FFT_ISA;

constexpr int kMaxTaps = GCN_STRIPS_MAX_TAPS, kMaxPositions = GCN_STRIPS_POSITIONS;

// clang-format off: in the order of use
#include "line.inl"
#include "rows.inl"
#include "march.inl"
// clang-format on

template <class A>
static void run_unit(const Call& call, int64_t unit) {
  March<A>(call, unit).run();
}

}  // namespace GCN_FFT_ISA

const Engine GCN_STRIPS_ENGINE = {GCN_FFT_ISA::run_unit<float>, GCN_FFT_ISA::run_unit<double>};

}  // namespace gcn::cpu::strips
