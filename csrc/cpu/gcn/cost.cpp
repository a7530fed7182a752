#include "cost.h"

#include <algorithm>
#include <limits>

namespace gcn::cpu {
namespace {

constexpr double kImpossible = std::numeric_limits<double>::infinity();
// Multiply-adds from which a pass counts as started on all threads; smaller ones pay a part of `start`.
constexpr double kFullStart = 2e5;
// oneDNN's weight gradient takes another, slower way for kernels that are longer.
constexpr int64_t kLongKernel = 14;
constexpr double kPrepareNsPerByte = 0.25;

// One convolution of oneDNN from c to o channels, P pixels, k taps. It computes on channels in blocks of 16: C and O are c and o
// rounded up.
struct ConvCost {
  double blocks;        // for each P k C O
  double output_block;  // P k c O
  double lone_input;    // P k O
  double lone_output;   // P k C
  double in, out;       // P c, P o: reading and writing the maps
  double weight;        // c o k: reordering the weight
  double long_column;   // P k C O of k x 1 with a long k
  double single;        // P k k c where o is 1
  double start, call;   // waking the threads, and what every call costs
};

struct DirectForward {
  double multiply_add;
  double tap;  // for each tap's value of a middle map: shifted and added, or gathered
  double in, middle, out, weight;
  double start, call;
};
struct DirectBackward {
  double multiply_add;
  double middle_tap, out_tap;
  double in, middle, out, weight;
  double start, call;
};
struct FftForward {
  double planned;  // times the engine's own prediction
  double in, middle, out, weight;
  double call;
};
struct FftBackward {
  double planned_input, planned_weight;  // gradients
  double spectra_byte;
  double in, middle, out, weight;
  double call;
};

// By dtype: float32, bfloat16, float16, float64. PyTorch's by layout too: NCHW, channels_last.
constexpr ConvCost kTorchForward[4][2] = {
    {{0, 0.00989, 0, 0.0408, 0.369, 0.532, 0.477, 0, 0.000187, 3e4, 1e4},
     {0, 0.00772, 0.00502, 0, 0.194, 0.418, 0.588, 0, 0, 2.2e4, 1.5e4}},  // float32
    {{0, 0.00484, 0.0043, 0.0146, 0.169, 0.335, 0.477, 0, 0.000874, 7.29e3, 7.15e4},
     {0, 0.00413, 0.00679, 0, 0.113, 0.163, 0.546, 0, 0, 918, 5.6e4}},  // bfloat16
    {{0, 0.0908, 0.0504, 0, 0, 2.34, 43.5, 0, 0, 0, 1.81e3},
     {0, 0.0185, 0.0596, 0, 0, 13.1, 4.1, 0.00216, 0.0025, 0, 9.28e3}},  // float16
    {{0, 0.0326, 0, 0.0551, 0, 0.152, 3.9, 0.00105, 0.00178, 0, 1.28e4},
     {0, 0.0304, 0.0753, 0.0182, 0, 0.123, 1.78, 0, 0, 0, 1.26e4}},  // float64
};
constexpr ConvCost kTorchBackward[4][2] = {
    {{0, 0.0187, 0.0165, 0.152, 0.702, 1.17, 0.0409, 0.0122, 0, 1.76e5, 3e4},
     {0.000644, 0.0172, 0, 0, 0.664, 1.22, 1.78, 0.0154, 0.00456, 1.3e5, 3.5e4}},  // float32
    {{0.00434, 0.00252, 0.0188, 0.0899, 0.421, 2.04, 1.12, 0.0117, 0.000516, 5.26e4, 2.09e5},
     {0.00168, 0.00644, 0, 0, 0.367, 0.63, 2.58, 0.0179, 0.000156, 3.08e4, 1.74e5}},                      // bfloat16
    {{0, 0.154, 0, 0, 0, 2.75, 44.1, 0, 0, 0, 2.25e4}, {0, 0.259, 0, 0, 0, 6.1, 67.9, 0, 0, 0, 2.31e4}},  // float16
    {{0, 0.061, 0, 0.765, 1.86, 0.696, 3.55, 0.0657, 0, 1.95e3, 3.11e4},
     {0, 0.0678, 0, 0.757, 0.665, 0.882, 3.67, 0.0908, 0, 6.48e3, 2.99e4}},  // float64
};
constexpr DirectForward kDirectForward[4] = {
    {0.00975, 0.297, 1.29, 2.07, 0.979, 0.912, 3.54e4, 7.13e4},  // float32
    {0.00934, 0.279, 1.2, 2.1, 0.743, 0.987, 2.43e4, 9.54e4},    // bfloat16
    {0.013, 0.302, 2.11, 3.12, 1.7, 1.61, 0, 7.46e4},            // float16
    {0.029, 0.543, 2.01, 0, 0.9, 2.15, 0, 6e4},                  // float64
};
constexpr DirectBackward kDirectBackward[4] = {
    {0.0117, 0.323, 0.115, 1.01, 1.16, 3.84, 3.94, 9.64e4, 2.42e5},   // float32
    {0.0113, 0.287, 0.114, 0.894, 2.02, 3.69, 4.44, 1.91e5, 1.58e5},  // bfloat16
    {0.0138, 0.507, 0.199, 2.09, 0, 2.42, 5.6, 3.08e4, 2.27e5},       // float16
    {0.0323, 0.403, 0.314, 1.28, 2.93, 2.07, 5.23, 0, 2.6e5},         // float64
};
constexpr FftForward kFftForward[4] = {
    {0.507, 0.451, 0.395, 0.317, 0.131, 6.49e4},  // float32
    {0.632, 0.327, 0.193, 0.252, 0.587, 8.01e4},  // bfloat16
    {0.476, 0.934, 1.03, 1.11, 2.37, 5.34e4},     // float16
};
constexpr FftBackward kFftBackward[4] = {
    {0.452, 0.363, 0, 0.566, 1.93, 4.79, 0, 2.62e5},     // float32
    {0.447, 0.64, 0, 0.406, 1.49, 3.89, 0.322, 2.94e5},  // bfloat16
    {0.147, 0.77, 0, 1.37, 2.65, 7.26, 5.87, 2.09e5},    // float16
};

int row_of(ScalarType dtype) {
  return dtype == ScalarType::Float ? 0 : dtype == ScalarType::BFloat16 ? 1 : dtype == ScalarType::Half ? 2 : 3;
}

int64_t block_of(int64_t channels) { return (channels + 15) / 16 * 16; }

double started(int64_t multiply_adds) { return std::min(1.0, static_cast<double>(multiply_adds) / kFullStart); }

double conv_ns(const ConvCost& cost, int64_t pixels, int64_t c, int64_t o, int64_t k, bool column) {
  const int64_t taps = pixels * k, c_block = block_of(c), o_block = block_of(o);
  const auto term = [](double ns, int64_t count) { return ns * static_cast<double>(count); };
  return term(cost.blocks, taps * c_block * o_block) + term(cost.output_block, taps * c * o_block) +
         term(cost.lone_input, taps * o_block) + term(cost.lone_output, taps * c_block) + term(cost.in, pixels * c) +
         term(cost.out, pixels * o) + term(cost.weight, c * o * k) +
         term(cost.long_column, column && k > kLongKernel ? taps * c_block * o_block : 0) +
         term(cost.single, o == 1 ? taps * k * c : 0) + cost.start * started(taps * c * o) + cost.call;
}

double block_ns(const ConvCost& cost, const Problem& p) {
  const int64_t n = p.pixels();
  return conv_ns(cost, n, p.c, p.m_l, p.k1, true) + conv_ns(cost, n, p.m_l, p.o, p.k2, false) +
         conv_ns(cost, n, p.c, p.m_r, p.k3, false) + conv_ns(cost, n, p.m_r, p.o, p.k4, true);
}

// What all methods' formulas are made of.
struct Counts {
  double pixels, in, middle, out, weight;

  explicit Counts(const Problem& p)
      : pixels(static_cast<double>(p.pixels())),
        in(pixels * static_cast<double>(p.c)),
        middle(pixels * static_cast<double>(p.m_l + p.m_r)),
        out(pixels * static_cast<double>(p.o)),
        weight(static_cast<double>(p.c * (p.k1 * p.m_l + p.k3 * p.m_r) + p.o * (p.k2 * p.m_l + p.k4 * p.m_r))) {}
};

double spectra_bytes(const LinePlans& plans) {
  return static_cast<double>(plans.l1.spectra_bytes + plans.l2.spectra_bytes + plans.r1.spectra_bytes + plans.r2.spectra_bytes);
}

// A backward pass goes over the map once for its gradient, and over half of it for each of the two first weights.
constexpr double kPasses = 2;

}  // namespace

double torch_forward_ns(const Problem& p, bool channels_last) {
  return block_ns(kTorchForward[row_of(p.dtype)][channels_last], p);
}
double torch_backward_ns(const Problem& p, bool channels_last) {
  return block_ns(kTorchBackward[row_of(p.dtype)][channels_last], p);
}

double direct_forward_ns(const Problem& p) {
  const DirectForward& cost = kDirectForward[row_of(p.dtype)];
  const Counts n(p);
  const int64_t taps = (p.k1 + p.k2) * p.m_l + (p.k3 + p.k4) * p.m_r;
  return cost.multiply_add * n.pixels * n.weight + cost.tap * n.pixels * static_cast<double>(taps) + cost.in * n.in +
         cost.middle * n.middle + cost.out * n.out + cost.weight * n.weight +
         cost.start * started(static_cast<int64_t>(n.pixels * n.weight)) + cost.call;
}

double direct_backward_ns(const Problem& p) {
  const DirectBackward& cost = kDirectBackward[row_of(p.dtype)];
  const Counts n(p);
  const int64_t left = p.k1 * p.m_l, right = p.k3 * p.m_r;
  // Every convolution has a gradient of its input and one of its weight.
  const int64_t middle_taps = 2 * (left + right), out_taps = 2 * p.o * (p.k2 + p.k4);
  const int64_t multiply_adds = p.c * middle_taps + 2 * p.o * (p.k2 * p.m_l + p.k4 * p.m_r);
  return cost.multiply_add * n.pixels * static_cast<double>(multiply_adds) +
         n.pixels * (cost.middle_tap * static_cast<double>(middle_taps) + cost.out_tap * static_cast<double>(out_taps)) +
         cost.in * n.in * kPasses + cost.middle * n.middle + cost.out * n.out + cost.weight * n.weight +
         cost.start * started(p.pixels() * multiply_adds) + cost.call;
}

double fft_forward_ns(const Problem& p, const LinePlans& plans, bool spectra_cached) {
  if (!plans.possible()) return kImpossible;
  const FftForward& cost = kFftForward[row_of(p.dtype)];
  const Counts n(p);
  return cost.planned * plans.nanoseconds() + cost.in * n.in + cost.middle * n.middle + cost.out * n.out +
         cost.weight * n.weight + cost.call + (spectra_cached ? 0 : kPrepareNsPerByte * spectra_bytes(plans));
}

double fft_backward_ns(const Problem& p, const BackwardPlans& plans) {
  if (!plans.possible()) return kImpossible;
  const FftBackward& cost = kFftBackward[row_of(p.dtype)];
  const Counts n(p);
  return cost.planned_input * plans.input.nanoseconds() + cost.planned_weight * plans.weight.nanoseconds() +
         cost.spectra_byte * spectra_bytes(plans.input) + cost.in * n.in * kPasses + cost.middle * n.middle + cost.out * n.out +
         cost.weight * n.weight + cost.call;
}

}  // namespace gcn::cpu
