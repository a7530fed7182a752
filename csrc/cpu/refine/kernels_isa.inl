// The kernels for one instruction set: kernels_*.cpp includes this once, with GCN_FFT_ISA (a namespace), GCN_FFT_VECTOR_BYTES
// and GCN_REFINE_KERNELS (the name of the result) set.
//
//   a = b1 + w1 * x    h = relu(a)    y = x + b2 + w2 * h                              * : 3 x 3 convolution
//   da = (a > 0) (w2 *' dy)           dx = dy + w1 *' da                               *': its transpose
//   dw1[m, c, d, e] = sum_p da[m, p] x[c, p + (d, e) - 1]
//   dw2[c, m, d, e] = sum_p h[m, p] dy[c, p - (d, e) + 1]
//
// A unit marches down its rows in bands of 4 (kernels.h). Windows of 6 rows hold what a band's convolutions read; nothing between
// the two convolutions leaves the cache, and going back a and h are computed again.
#include "../fft/rows.h"
#include "kernels.h"

namespace gcn::cpu {
namespace fft {
namespace GCN_FFT_ISA {
namespace refine {

using gcn::cpu::refine::Backward;
using gcn::cpu::refine::Forward;
using gcn::cpu::refine::kBand;
using gcn::cpu::refine::kWindow;
using gcn::cpu::refine::Sizes;
using gcn::cpu::refine::Sums;
using gcn::cpu::refine::Tiling;
using gcn::cpu::refine::Unit;

#include "lines.inl"
//
#include "direct.inl"
//
#include "winograd.inl"
//
#include "march.inl"

}  // namespace refine
}  // namespace GCN_FFT_ISA
}  // namespace fft

namespace refine {

const Kernels GCN_REFINE_KERNELS = {
    fft::GCN_FFT_ISA::refine::kMethod<fft::GCN_FFT_ISA::refine::Direct>,
    fft::GCN_FFT_ISA::refine::kMethod<fft::GCN_FFT_ISA::refine::Winograd>,
};

}  // namespace refine
}  // namespace gcn::cpu
