// What tests ask of the plans of the doubling, by names that ctypes finds in the emulator's library.
#include <sstream>
#include <string>

#include "upsample/upsample_plan.h"

extern "C" {

// As JSON. sizes: n, c, o, h, w, yh, yw, k, each channel by itself, something is added; math: a number of gcn::cuda::Math; gpu:
// multiprocessors, bytes of shared memory of a block and of a multiprocessor; wanted: the gradients, bit by bit, or -1 for a
// forward pass. Clock and memory are those of an H200.
__attribute__((visibility("default"))) const char* upsample_plan(const int64_t* s, int math, const int* gpu, int wanted) {
  using namespace gcn::cuda;
  Gpu g;
  g.multiprocessors = gpu[0], g.shared_per_block = gpu[1], g.shared_per_multiprocessor = gpu[2], g.memory = 4.2e12;
  const UpsampleSizes sizes = {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8] != 0, s[9] != 0};
  const auto bit = [&](int i) { return (wanted >> i & 1) != 0; };
  const UpsamplePlan p = wanted < 0 ? plan_upsample_forward(sizes, Math(math), g)
                                    : plan_upsample_backward(sizes, Math(math), {bit(0), bit(1), bit(2)}, g);
  static std::string text;
  std::ostringstream out;
  out << "{\"why_direct\": \"" << p.why_direct << "\", \"rows\": " << p.tile.rows << ", \"cols\": " << p.tile.cols
      << ", \"tiles\": " << p.tile.tiles << ", \"blocks\": " << p.blocks << ", \"resident\": " << p.resident
      << ", \"shared_bytes\": " << p.shared_bytes << ", \"workspace_bytes\": " << p.workspace_bytes
      << ", \"seconds\": " << p.seconds << ", \"floor\": " << p.floor << ", \"shares\": " << p.tile.shares << "}";
  text = out.str();
  return text.c_str();
}
}
