// The parameters of the kernels of the doubling as plain structs, and their launchers.
//
// y = conv_transpose2d(x, weight, stride=2), x [N, C, H, W], y [N, O, 2H, 2W]. Rows and columns of y are of two kinds each, even
// and odd, so y is four maps of the size of x: its phases. Phase (p, q) is a convolution of x with one or two of the kernel's
// taps along each axis,
//
//   y[2 i + p, 2 j + q] = sum over shifts s, t of w[p + pad - 2 s, q + pad - 2 t] x[i + s, j + t]      pad: 0 of 2 x 2, else 1
//
// and the gradient of x is the sum over the phases of dy of convolutions with the shifts negated. So no product has a zero in it.
//
// A block has a tile of `rows` x `cols` pixels of x, and of four phases of y. Where other tiles' pixels are read as well, maps
// are in shared memory with one row more above and below, and two columns left and right.
#pragma once

#include "../operands.h"

namespace gcn::cuda {

constexpr int kUpsampleThreads = 256, kUpsampleWarps = kUpsampleThreads / 32, kUpsampleMostBlocks = 2;
// What a warp computes at a time: rows of a phase of y, or one of the gradient of x, by 32 columns.
constexpr int kUpsampleUnitRows = 2, kUpsampleUnitCols = 32;
// Outputs of a unit on the tensor cores, and of one of multiply-adds.
constexpr int kUpsampleOutputs = 24, kUpsampleFewOutputs = 8;
constexpr int kUpsampleHaloRows = 1, kUpsampleHaloCols = 2;
constexpr bool upsample_on_tensor_cores(Math math) { return math == Math::kHalf || math == Math::kBFloat16; }

// A product of a map's windows with weights: y from x, or dx from dy. Element (output, input, tap) of the weights at
// data[output * of_output + input * of_input + tap].
struct UpsampleConv {
  const void *weight, *bias;  // the bias null where there is none
  int outputs, inputs, of_output, of_input;
  bool turned;
  int k, most_taps;      // of the kernel along an axis; of a phase of it, at most
  int of_group, groups;  // outputs whose weights are in shared memory at a time, one unit or several
  int pieces;            // of 16 bytes, of a pixel of the map that is read
  int steps;             // on the tensor cores, of two pieces, for a row of taps; at most
  int weights, biases;   // bytes of shared memory: where they start
};

struct UpsampleTile {
  StridedMap x, dy, add, out;  // add: no data where there is none; out: y or dx
  UpsampleConv conv;
  bool wants_dx, wants_dw, wants_db;
  int n, c, o, h, w, yh, yw;  // yh x yw: of y, which may be less than 2h x 2w
  int rows, cols, tiles_h, tiles_w;
  int rows_log, cols_log;  // rows and cols are powers of two
  int64_t tiles;
  int pieces_x, pieces_y;          // of a pixel
  int x_at, dy_at, out_at;         // bytes of shared memory
  int plane, plane_out;            // bytes of a piece of x or of a phase of dy, and of a piece of what is written
  void *partial, *partial_bias;    // [block][share][tap][o_padded][c_padded] and [block][o_padded], sums
  int shares, o_padded, c_padded;  // shares: of a tile's rows, where threads have sums of their own
};

// Adds up the parts of the gradients, in the order of a fixed tree.
struct UpsampleFinish {
  void *weight, *bias;  // [c][o][k][k] and [biases], dense; null where not wanted
  const void *partial, *partial_bias;
  int64_t parts, parts_bias;
  int c, o, taps, o_padded, c_padded;
  int biases, biases_padded;
};

// Any sizes, from device memory: each channel by itself, and channels of which no tile fits in shared memory.
struct UpsampleDirect {
  StridedMap x, dy, add, out;
  const void *weight, *bias;
  int n, c, o, h, w, yh, yw, k;
  int strip;  // each channel by itself: rows of pixels of a thread
  bool wants_dx, wants_sums;
  int part_rows;                 // of one image, of which a block adds up
  int64_t parts;                 // of all images
  void *partial, *partial_bias;  // [part][tap][o, or 1 each channel by itself][c] and [part][o]; null where not wanted
};

int upsample_forward(Math, const UpsampleTile&, int blocks, int shared_bytes, Stream);
int upsample_backward(Math, const UpsampleTile&, int blocks, int shared_bytes, Stream);
int upsample_finish(Math, const UpsampleFinish&, Stream);
int upsample_single_forward(Math, const UpsampleDirect&, Stream);  // each channel by itself
int upsample_single_backward(Math, const UpsampleDirect&, Stream);
int upsample_direct_forward(Math, const UpsampleDirect&, Stream);
int upsample_direct_backward(Math, const UpsampleDirect&, Stream);

}  // namespace gcn::cuda
