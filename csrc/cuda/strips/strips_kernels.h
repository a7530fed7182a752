// The parameters of the kernels of depthwise strips as plain structs, and their launchers.
//
// A program (csrc/strips/program.h) is carried out in one launch: a block has a tile of some channels of an image, and every map
// of the program lives in its shared memory, as far as the tile needs it. A map in shared memory is [channel][row][column], of
// the type that sums are kept in, or on the tensor cores of the images' type. Its region reaches `rh` rows and `rw` columns
// beyond the tile's core, and is zero outside of the image, which is the padding of the convolutions that read it.
#pragma once

#include "../operands.h"

namespace gcn::cuda {

constexpr int kStripsGroup = 8;  // outputs of a thread along a kernel, and taps that it takes at a time
constexpr int kStripsQuad = 4;   // elements that are moved at once
// Threads of a block at most, so that sums and windows of inputs fit in registers: 80 for each, 168 for float64.
constexpr int strips_most_threads(size_t element_bytes) { return element_bytes == 8 ? 384 : 768; }
// The same on the tensor cores: 80 registers for each in 16 bits, 96 in tf32.
constexpr int strips_banded_threads(size_t element_bytes) { return element_bytes == 2 ? 768 : 640; }
constexpr int kStripsSums = 32;  // of a block that adds up parts
constexpr int kStripsMostMaps = 20, kStripsMostOps = 40, kStripsMostKernels = 16;

// Taps of a line that kernels are compiled for.
constexpr int kStripsKnownTaps[] = {3, 5, 7, 11, 19, 21};
// Of at most so many taps a thread computes 32 outputs of a column, else 16; and takes 16 pixels of a dot at a time, else 8.
constexpr int kStripsTapsOfMany = 11;
constexpr bool strips_known(int taps) {
  for (const int known : kStripsKnownTaps)
    if (known == taps) return true;
  return false;
}

// Products on the tensor cores (strips_banded.cuh). A line of weights takes a word for each tap and what a band has around
// them, `length` being the pixels from the first tap to the last. A warp makes the products of so many pieces of 8 columns or
// rows for the gradients of a line, or of as many as are asked for, and leaves sums of 8 lanes each.
constexpr int kStripsBandBefore = 16;
constexpr int strips_band_words(int64_t length) { return int((length + kStripsGroup - 1) / kStripsGroup * kStripsGroup) + 40; }
constexpr int kStripsGramBlocks = 6, kStripsGramSums = 8 * kStripsGramBlocks + 16;

constexpr int kStripsFront = 8;  // elements of shared memory in front of the weights: what the block works on

// Where a map lies in shared memory. Sizes are multiples of kStripsGroup (on the tensor cores rows need not be) but for the
// pitch, which is an odd number of quads, on the tensor cores of 16 bytes, so that those of neighbouring rows fall on different
// banks.
struct StripsMap {
  int first;         // element of shared memory
  int plane, pitch;  // from one channel to the next, from one row to the next
  short rows, cols;  // of the region
  short rh, rw;      // of it, before the core
};

// One kernel's parameters, dense: weight [C, kh, kw], bias [C] or null.
struct StripsKernel {
  const void* weight;
  const void* bias;
  int kh, kw, dh, dw;
};

enum class StripsKind : signed char { kLoad, kConv, kDot, kStore };
enum class StripsAddend : signed char { kNone, kItself, kMap };

struct StripsOp {
  StripsKind kind;
  signed char src, dst;  // conv: maps. load: image, map. store: map, image. dot: the kernel's input, its output gradient
  signed char kernel;
  StripsAddend addend;  // conv
  signed char addend_map;
  bool flipped;        // conv: the kernel turned by half a turn, and no bias
  bool weight, bias;   // dot: which gradients
  signed char splits;  // dot: of the pixels, each of which is added up by a warp of its own
  short run;           // conv on the tensor cores: 16 rows so many times are a warp's, one below the other
  int weights, band;   // conv: element of shared memory; on the tensor cores, words of a line of weights
  int sums;            // dot: the first of its sums, the bias's after the weight's
};

struct StripsTile {
  StridedMap image[3];  // the last one is written to, and so is the second of a forward program
  StripsKernel kernel[kStripsMostKernels];
  StripsMap map[kStripsMostMaps];
  StripsOp op[kStripsMostOps];
  int ops;
  int n, c, h, w;
  int tile_h, tile_w, tiles_h, tiles_w;
  int channels, groups;  // of a block, a power of two; groups of so many
  bool channels_first;   // neighbouring blocks have neighbouring channels, and neighbouring threads load them
  int together[3];       // of images: so many neighbours, columns or else channels, are aligned and moved at once
  int scratch;           // element of shared memory where dots have their parts
  int weight_plane;      // shared memory of the weights of one channel, the first of them behind the front
  void* partial;         // [image and tile][channel][sum], in the accumulator's type
  int sums;
};

// Adds up the parts of every sum, in their order.
struct StripsFinish {
  struct Gradient {
    void* out;  // [C][count], dense
    int first, count;
  } gradient[2 * kStripsMostKernels];
  int gradients;
  const void* partial;  // [part][channel][sum]
  int c, sums;
  int64_t parts;
};

// Any program on any map, an operation a launch: maps between the steps are in device memory, in the accumulator's type.
struct StripsDirectConv {
  DirectMap src, dst, addend;  // an addend without data is none
  StripsKernel kernel;
  bool flipped;
  int n, c, h, w;
};

struct StripsDirectDot {
  DirectMap x, g;
  StripsKernel kernel;
  void *weight, *bias;  // gradients, dense; or null
  int n, c, h, w;
};

// Of float32, float64, bfloat16 and float16: Math::kFloat, and so on. The arithmetic is float32, or float64. Math::kTf32 allows
// tf32, and is float32 where there is nothing else.
int strips_tile(Math, const StripsTile&, int64_t blocks, int threads, int shared_bytes, Stream);
// The same of bfloat16, float16 and tf32 on the tensor cores.
int strips_banded(Math, const StripsTile&, int64_t blocks, int threads, int shared_bytes, Stream);
int strips_finish(Math, const StripsFinish&, Stream);
int strips_direct_conv(Math, const StripsDirectConv&, Stream);
int strips_direct_dot(Math, const StripsDirectDot&, Stream);

}  // namespace gcn::cuda
