// How a problem is cut into units of work, and what that costs.
//
// An image has n * q lines of length s along the kernel's axis (q the other side). In the general product
//
//   acc[plane][output][lane] = sum_reduction vector[plane][reduction][lane] *
//   broadcast[plane][reduction][output]
//
//                lanes           reduction            outputs            vector     broadcast
//   conv         lines           channels of in       channels of out    in         w
//   wgrad        channels of in  lines x blocks       channels of out    in         dout
//
// A unit is `vectors` vectors of lanes (times a block of the line with conv), one of `output_parts` ranges of
// output slices and one of `splits` ranges of reduction slices. It keeps in its thread's scratch, which
// should stay in L2,
//
//   spectra of one reduction slice      length * reduction * vectors * lanes * 4 bytes
//   accumulators of one output slice    1.5 length * outputs * vectors * lanes * 4 bytes
//
// e.g. length 80, 32 channels, 21 outputs, 2 vectors of 16: 328 KB + 323 KB.
//
// Blocks (overlap-save): a block of B outputs reads B + taps - 1 samples, and the cyclic convolution must not
// wrap into its outputs: length >= B + taps - 1. Where one block covers the line, half of the halo is zero,
// and wrapping brings only zeros as long as length >= s + taps / 2. Taps that never meet the image are
// dropped first.
//
// Splits leave partial sums in a workspace, added in a fixed order; they cost one more inverse transform of
// each output and are used where there would be fewer than kWantedUnits units.
#pragma once

#include "engine.h"

namespace gcn::cpu {
namespace fft {

constexpr int kLengths[] = {8, 16, 24, 32, 40, 48, 56, 72, 80, 96, 112, 144, 160, 224, 288};

inline int lanes_of(Isa isa) { return isa == Isa::kAvx512 ? 16 : isa == Isa::kAvx2 ? 8 : 4; }

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What follows from a plan.
struct Tiling {
  int64_t lines;       // along the axis: length of a line
  int64_t across;      // lines of an image
  int64_t reductions;  // channels, or lines x blocks of all images
  int64_t lane_vectors, lane_tiles;
  int64_t reduction_slices, output_slices;
  int64_t points, planes;  // complex points of the spectrum; planes of the product
  int64_t first_tap;
};

Tiling tiling_of(const Plan& plan, bool wgrad);

// Scratch of one thread, in vectors: tile, second tile, transform, spectra, accumulators.
struct ScratchMap {
  int64_t tile_stride, spectrum_stride, product_stride;
  int64_t second_tile, transform, spectra, product, total;
};
ScratchMap scratch_map(const Plan& plan);

}  // namespace fft
}  // namespace gcn::cpu
