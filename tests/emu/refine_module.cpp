// What tests ask of the plans of boundary refinement, by names that ctypes finds in the emulator's library.
#include <sstream>
#include <string>

#include "gcn/hopper/hopper_kernels.h"
#include "refine/refine_plan.h"

// Of the kernels for Hopper only those of this operator are here.
namespace gcn::cuda {
bool hopper_built() { return true; }
int hopper_clusters(int) { return 0; }
}  // namespace gcn::cuda

extern "C" {

// As JSON. sizes: n, c, m, h, w; math: a number of gcn::cuda::Math; gpu: multiprocessors, bytes of shared memory of a block and
// of a multiprocessor; wanted: the gradients, bit by bit, or -1 for a forward pass, or -2 for one on Hopper, where it is faster,
// or -3 wherever that is possible. Maps are in channels_last.
__attribute__((visibility("default"))) const char* refine_plan(const int64_t* sizes, int math, const int* gpu, int wanted) {
  using namespace gcn::cuda;
  Gpu g;
  g.multiprocessors = gpu[0], g.shared_per_block = gpu[1], g.shared_per_multiprocessor = gpu[2];
  const RefineSizes s = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  const auto bit = [&](int i) { return (wanted >> i & 1) != 0; };
  if (wanted < -1) g.hopper = true, g.generation = Generation::kHopper, g.overrides.refine_march = wanted == -3;
  const MapLayout layout = {{s.c * s.h * s.w, 1, s.c * s.w, s.c}, true};
  const RefinePlan p = wanted < 0 ? plan_refine_forward(s, Math(math), layout, layout, g)
                                  : plan_refine_backward(s, Math(math), {bit(0), bit(1), bit(2), bit(3), bit(4)}, g);
  static std::string text;
  std::ostringstream out;
  out << "{\"why_direct\": \"" << p.why_direct << "\", \"why_portable\": \"" << p.why_portable
      << "\", \"units\": " << p.march.units << ", \"segment\": " << p.march.rows << ", \"rows\": " << p.tile.rows
      << ", \"cols\": " << p.tile.cols << ", \"tiles\": " << p.tile.tiles << ", \"blocks\": " << p.blocks
      << ", \"resident\": " << p.resident << ", \"shared_bytes\": " << p.shared_bytes
      << ", \"workspace_bytes\": " << p.workspace_bytes << ", \"seconds\": " << p.seconds << ", \"floor\": " << p.floor << "}";
  text = out.str();
  return text.c_str();
}
}
