// Depthwise strips as a program over maps: which convolution reads what and writes where.
//
//   a = conv(x, stem) or x;   s = (a if skip) + the sum over branches of conv_n( ... conv_1(a))        all depthwise
//
// The backward pass is a program of the same kind: the maps between the steps are computed again, output gradients run
// through the chains in reverse with flipped kernels, and a dot product of the two for every tap gives the weight's
// gradient. How a program is carried out is each device's own: csrc/cpu/strips marches down the map row block by row block,
// csrc/cuda/strips keeps tiles in shared memory.
#pragma once

#include <cstdint>
#include <vector>

namespace gcn::strips {

// One depthwise convolution, stride 1, zero padding that keeps the size; kh and kw are odd.
struct Kernel {
  int64_t kh, kw, dh, dw;
  bool bias;

  int64_t taps() const { return kh * kw; }
  int64_t reach_h() const { return dh * (kh / 2); }
  int64_t reach_w() const { return dw * (kw / 2); }
  // The longer axis is the one that is kept in registers.
  bool along_h() const { return kh > kw; }
  int64_t length() const { return along_h() ? kh : kw; }
  int64_t across() const { return along_h() ? kw : kh; }
};

struct Form {
  std::vector<Kernel> kernels;   // the stem's first, then branch by branch
  std::vector<int64_t> lengths;  // steps of each branch
  bool stem, skip;
};

struct Buffer {
  int image;                // of the call that is read or written, or -1: a map between steps
  bool result;              // written to its image
  int64_t rh = 0, rw = 0;   // rows and columns around the tile's core that are needed; the device's to fill in, as all below
  int64_t low = INT64_MAX;  // the first row still needed when rows up to r + rh are being written, relative to r
};

// dst = [addend +] conv(src); addend may be dst itself.
struct Step {
  int kernel, src, dst, addend;
  bool flipped;  // an input gradient: the kernel turned by half a turn, and no bias
};

// Gradients of a kernel and of its bias: dot products of its input x and its output gradient g.
struct Dot {
  int kernel, x, g;
  bool weight, bias;
};

struct Program {
  std::vector<Kernel> kernels;
  std::vector<Buffer> buffers;
  std::vector<Step> steps;  // each after those it reads from
  std::vector<Dot> dots;
  int64_t rows = 0;  // of a row block, where the map is worked off in such

  int64_t taps() const;
};

struct WantedGradients {
  bool x;
  std::vector<bool> weights, biases;
};

constexpr int kNone = -1;  // no addend, no image

// Images of the call: 0 is x, 1 is y.
Program forward_program(const Form& form);
// Images of the call: 0 is dy, 1 is x, 2 is dx.
Program backward_program(const Form& form, const WantedGradients& wanted);

}  // namespace gcn::strips
