// The engine for one instruction set: engine_*.cpp includes this once, with GCN_FFT_ISA (a namespace),
// GCN_FFT_VECTOR_BYTES and GCN_FFT_BACKEND (the name of the result) set.
#include "conv.h"
#include "wgrad.h"

namespace gcn::cpu {
namespace fft {

const Backend GCN_FFT_BACKEND = {GCN_FFT_ISA::prepare, GCN_FFT_ISA::conv, GCN_FFT_ISA::wgrad};

}  // namespace fft
}  // namespace gcn::cpu
