// Frequency-domain engine for one-dimensional convolutions of images on a CPU: the public interface.
//
//   conv    out[n, o, p] = addend[n, o, p] + bias[o] + sum_{c,t} in[n, c, p + t - k/2] w[o, c, t]
//   wgrad   dw[o, c, t]  = sum_{n,p} dout[n, o, p] in[n, c, p + t - k/2]
//
// where p runs over the image and the shift t - k/2 is along one axis, H or W; outside of the image `in` is
// zero. k is odd. The gradient with respect to `in` is a conv of dout with w transposed in (o, c) and
// reversed in t, which strides express. Arithmetic is float; images may be float, bfloat16 or float16 in any
// strided layout.
//
// Cost is nearly independent of k. Call order: plan once for each problem; prepare once for each value of the
// weights (their spectra, plan.spectra_bytes); conv as often as wanted.
//
// Threads: the engine makes none. It hands independent units of work to the caller's Parallel. The plan, not
// the number of threads, decides the units and the order of every sum: results are bit-identical for any
// number of threads. Each thread that runs units keeps a scratch buffer of 1-2 MB until it ends.
//
// Numerics: lines of an image do not mix, blocks of a line do not mix. Within a block the absolute error is
// relative to the block's largest value, as with any fast convolution: about 2e-7 of max |in| * sum |w|
// there, so small values next to huge ones on the same line lose relative accuracy that a direct sum would
// keep. A NaN or an infinity spreads over all outputs of its block, beyond the receptive field: where a result
// holds one, the call says so and gives up, and the caller computes by another method.
#pragma once

#include <atomic>
#include <cstdint>

namespace gcn::cpu {
namespace fft {

enum class DType : int8_t { kFloat32, kBFloat16, kFloat16 };
enum class Axis : int8_t { kH, kW };

// Slowest first. kPortable is there wherever the engine is.
enum class Isa : int8_t { kPortable, kAvx2, kAvx512 };

// An [n, c, h, w] image; strides in elements, any sign. Sizes are those of the problem.
struct ConstImage {
  const void* data;
  DType dtype;
  int64_t stride_n, stride_c, stride_h, stride_w;
};
struct Image {
  void* data;
  DType dtype;
  int64_t stride_n, stride_c, stride_h, stride_w;
};

// Weights w[o, c, t] of the conv as it is computed (o: channels of out, c: channels of in); strides in
// elements. Reversed taps: data points at the last tap and stride_t is negative.
struct Filter {
  const float* data;
  int64_t stride_o, stride_c, stride_t;
};
struct FilterGrad {
  float* data;
  int64_t stride_o, stride_c, stride_t;
};

struct Problem {
  Axis axis;
  int64_t n, c, o, h, w;  // images, channels of in, channels of out, size
  int64_t k;              // taps, odd
};

// What plan_conv and plan_wgrad decide; plain numbers, free to copy and compare. See plan.h for their
// meaning.
struct Plan {
  Problem problem;
  Isa isa;
  bool possible;  // false: no transform is long enough (k above 280 on a long line) or the engine is not in
                  // this build
  bool merge_images;
  int32_t length;     // of the transform
  int32_t vectors;    // of lanes in a unit
  int32_t reduction;  // channels (wgrad: lines) in a slice
  int32_t outputs;    // output channels in a slice
  int32_t output_parts, splits;
  int64_t taps;             // of k, those that can meet the image
  int64_t block, blocks;    // outputs of a block along the axis; blocks of a line
  int64_t units;            // independent pieces of work
  double nanoseconds;       // predicted, of one core of a Zen 4 at 3.7 GHz, with prepared weights
  int64_t spectra_bytes;    // what prepare writes
  int64_t workspace_bytes;  // what conv or wgrad needs
};

struct Parallel {
  // Calls unit(arg, i) once for each i in [0, count), in any order, on any threads, and returns when all are
  // done.
  void (*run)(void* context, int64_t count, void (*unit)(void* arg, int64_t i), void* arg);
  void* context;
};

// One conv of a group. bias, addend and workspace (when workspace_bytes is 0) may be null. addend may be out
// itself, with the same strides: then it accumulates. A workspace is aligned to 64 bytes.
struct ConvCall {
  const Plan* plan;
  ConstImage in;
  const float* spectra;  // aligned to 4 bytes or more
  const float* bias;
  const ConstImage* addend;
  Image out;
  void* workspace;
  std::atomic<bool>* not_finite;  // set where out is not finite and cannot be told; once it is, no unit starts
};

struct WgradCall {
  const Plan* plan;
  ConstImage in, dout;
  FilterGrad grad;
  void* workspace;
  std::atomic<bool>* not_finite;  // as in ConvCall
};

Plan plan_conv(const Problem& problem);
Plan plan_wgrad(const Problem& problem);

void prepare(const Plan& plan, const Filter& filter, float* spectra, const Parallel& parallel);

// Independent calls (no out is another's in or addend) run side by side, so that small problems fill more
// threads. Their plans are for the same instruction set. All sizes of a problem are at least 1.
void conv(const ConvCall* calls, int count, const Parallel& parallel);
void wgrad(const WgradCall* calls, int count, const Parallel& parallel);

// The instruction set for new plans: the best that this build and this CPU have, or the one that the
// environment variable GCN_KERNELS_CPU_ISA (avx512, avx2, portable) names; std::runtime_error where it names
// another, or one that is not available. set_isa returns false, and changes
// nothing, where it is not available. A plan keeps its own.
bool isa_available(Isa isa);
Isa active_isa();
bool set_isa(Isa isa);

}  // namespace fft
}  // namespace gcn::cpu
