// The parameters of the kernels of boundary refinement as plain structs, and their launchers.
//
//   y = x + conv(u, w2) + b2,  u = relu(conv(x, w1) + b1),  both 3 x 3 over zero padding: x [N, C, H, W], u [N, M, H, W]
//
// A block has a tile: a region of u of `rows` x `cols` pixels, of which the inner ones, without the border of one pixel, are the
// core that it writes to the result. x, and dy, are in shared memory one pixel beyond the region.
#pragma once

#include "../operands.h"

namespace gcn::cuda {

constexpr int kRefineThreads = 256, kRefineWarps = kRefineThreads / 32;
// Blocks that share a multiprocessor where shared memory allows: three products for one take more registers.
constexpr int refine_most_blocks(bool fp32) { return fp32 ? 1 : 2; }
// What a warp computes at a time: pixels of a region, and output channels.
constexpr int kRefineUnitRows = 2, kRefineUnitCols = 32, kRefineOutputs = 24, kRefineOutputBlocks = kRefineOutputs / 8;
// Accumulators of a lane for a unit of the weights' gradients: three rows of taps of 24 channels.
constexpr int kRefineSums = 3 * kRefineOutputBlocks * 4;
constexpr int kRefineWindows = 16;  // a unit's channels of the windows

// A pixel in shared memory: pieces of 16 bytes, a plane each, of the stored type. `whole` pieces are channels of the pixel. Where
// the `rest` is so few channels that those of three neighbouring pixels take less than three pieces, the `packed` pieces of a
// pixel are these: of the pixel, of the next in its row, of the one after. The depth of a convolution's row of taps is
//   whole pieces of the pixel | of the next | of the one after | packed pieces
// which for 21 channels in 16 bits are 64 numbers, of which 63 are used.
struct RefinePixel {
  int whole, packed, rest;
};
constexpr RefinePixel refine_pixel(int channels, int of_piece) {
  const int whole = channels / of_piece, rest = channels % of_piece, packed = (3 * rest + of_piece - 1) / of_piece;
  return packed < 3 ? RefinePixel{whole, packed, rest} : RefinePixel{whole + 1, 0, 0};
}

// One of the convolutions as a product with the map it reads. Weights are dense but for their first two dimensions, which may
// have changed places: element (output, input, tap) at data[output * of_output + input * of_input + tap], the taps in reverse
// order where they are flipped.
struct RefineConv {
  const void* weight;  // null: nobody asks for this one
  const void* bias;    // or null
  int outputs, inputs;
  int of_output, of_input;
  bool flipped;
  RefinePixel pixel;            // of the map it reads
  int groups;                   // of kRefineOutputs
  int steps;                    // of two pieces, for a row of taps
  int plane;                    // of the map it reads
  int weights, places, biases;  // bytes of shared memory: where they start
};

// The sums over pixels that make weight gradients: a [pixel][channel] and, a tap further, b.
struct RefineGrad {
  void *weight, *bias;  // [channels of a][channels of b][3][3] and [channels of a], dense; null where not wanted
  int a, b;             // channels
  RefinePixel pixel;    // of b
  int windows, groups;  // of kRefineWindows numbers of the depth of a row of taps of b; of kRefineOutputs channels of a
  int first;            // of its units
};

struct RefineTile {
  StridedMap maps[2], out;  // x and dy; y or dx
  RefineConv conv[3];       // u from x; y from u, or du from dy; dx from du
  RefineGrad grad[2];       // of w1 and b1, of w2 and b2
  bool wants_dx, wants_du;
  bool in_turns;  // weights of the convolutions have one place
  int n, c, m, h, w;
  int rows, cols, tiles_h, tiles_w;
  int across_log;  // of the units side by side in a tile
  int64_t tiles;
  RefinePixel pixel_c, pixel_m;  // of x, of u
  int maps_at[2], u_at;          // bytes of shared memory
  int plane_x, plane_u;          // of a piece of x and dy, of u
  float* partial;                // [block][unit][kRefineSums][lane]
  int units;                     // of all gradients
};

// Adds up the parts of the gradients, in the order of the blocks.
struct RefineFinish {
  RefineGrad grad[2];
  const float* partial;
  int units, blocks;
};

// Any sizes, a convolution a launch: u and du are in device memory, in the accumulator's type.
struct RefineDirectConv {
  DirectMap from, to;
  DirectMap addend;  // without data: none
  DirectMap mask;    // without data: none; where it is not positive, and not nan, the result is zero
  RefineConv conv;
  bool relu;
  int n, h, w;
};

struct RefineDirectGrad {
  DirectMap a, b;
  RefineGrad grad;
  int n, h, w;
};

int refine_forward(Math, const RefineTile&, int blocks, int shared_bytes, Stream);
int refine_backward(Math, const RefineTile&, int blocks, int shared_bytes, Stream);
int refine_finish(Math, const RefineFinish&, Stream);
int refine_direct_conv(Math, const RefineDirectConv&, Stream);
int refine_direct_grad(Math, const RefineDirectGrad&, Stream);

}  // namespace gcn::cuda
