// What tests ask of the plans of depthwise strips, by names that ctypes finds in the emulator's library.
#include <sstream>
#include <string>
#include <vector>

#include "strips/strips_plan.h"

extern "C" {

// As JSON. sizes: n, c, h, w; math: a number of gcn::cuda::Math; gpu: multiprocessors, bytes of shared memory of a block and of a
// multiprocessor, gigabytes a second of device memory; kernels: kh, kw, dh, dw of each, the stem's first; lengths: of the
// branches; form: numbers of kernels and of branches, whether there is a stem, a skip; of a forward pass, or of a backward pass
// with all gradients; in NCHW or in channels_last.
__attribute__((visibility("default"))) const char* strips_plan(const int64_t* sizes, int math, const int* gpu,
                                                               const int64_t* kernels, const int64_t* lengths, const int* form,
                                                               bool backward, bool channels_last, const char* overrides) {
  using namespace gcn::cuda;
  Gpu g;
  g.multiprocessors = gpu[0], g.shared_per_block = gpu[1], g.shared_per_multiprocessor = gpu[2], g.memory = gpu[3] * 1e9;
  g.overrides = read_overrides(overrides);
  gcn::strips::Form of;
  for (int i = 0; i < form[0]; ++i, kernels += 4) of.kernels.push_back({kernels[0], kernels[1], kernels[2], kernels[3], true});
  of.lengths.assign(lengths, lengths + form[1]), of.stem = form[2], of.skip = form[3];
  const auto [n, c, h, w] = StripsSizes{sizes[0], sizes[1], sizes[2], sizes[3]};
  const Strides strides = channels_last ? Strides{h * w * c, 1, w * c, c} : Strides{c * h * w, h * w, w, 1};
  const std::vector<bool> all(of.kernels.size(), true);
  const auto program = backward ? gcn::strips::backward_program(of, {true, all, all}) : gcn::strips::forward_program(of);
  const StripsPlan p = plan_strips(program, {n, c, h, w}, Math(math), {strides, strides, strides}, g);
  static std::string text;
  std::ostringstream out;
  out << "{\"why_direct\": \"" << p.why_direct << "\", \"banded\": " << p.banded << ", \"rows\": " << p.tile.tile_h
      << ", \"cols\": " << p.tile.tile_w << ", \"channels\": " << p.tile.channels << ", \"threads\": " << p.threads
      << ", \"resident\": " << p.resident << ", \"shared_bytes\": " << p.shared_bytes << ", \"seconds\": " << p.seconds
      << ", \"floor\": " << p.floor << ", \"bound\": \"" << (p.bound ? p.bound : "") << "\"}";
  text = out.str();
  return text.c_str();
}
}
