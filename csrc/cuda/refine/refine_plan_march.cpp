// Forward with the kernel for Hopper (hopper/refine_march.cuh): whether it takes a problem, how segments are cut, and how long it
// should take.
#include <algorithm>
#include <limits>

#include "refine_plan.h"

namespace gcn::cuda {
namespace {

// Estimates. Instructions of a warp as they stand in the machine code, four warps together, of a row of a strip: of the products
// and what is between barriers, of u, of y, and of x and y on their way where rows of pixels are in memory; and how many a
// multiprocessor issues in a clock, as refine_plan.cpp has it. Clocks in which a row's products, and what a warp makes of them,
// follow each other, where no other warpgroup is in the way; and until the first row is there: weights, and the first of x.
constexpr double kRowInstructions = 2550, kIssue = 2.5, kRowClocks = 2000, kStartClocks = 5000;
// What shared memory is taken to reach of its 128 bytes a clock; a piece of eight pixels that does not start at a multiple of 128
// bytes is taken to be read twice, as the second stage's times on an H200 let assume.
constexpr double kUseOfShared = 0.85, kUnaligned = 2;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// As maps whose rows are copied in pieces of 16 bytes.
enum class Rows { kNone, kOfPlanes, kOfPixels };
Rows rows_of(const RefineSizes& s, const MapLayout& map) {
  const Strides& at = map.strides;
  const auto whole = [](int64_t stride, int64_t size) { return size == 1 || stride % 8 == 0; };
  if (!map.aligned || s.w % 8 || !whole(at.n, s.n) || !whole(at.h, s.h)) return Rows::kNone;
  if (at.w == 1 && whole(at.c, s.c)) return Rows::kOfPlanes;
  return at.c == 1 && at.w == s.c ? Rows::kOfPixels : Rows::kNone;
}

// Clocks of a multiprocessor for a row of each of its warpgroups' strips.
double row_clocks(const RefineSizes& s, const Gpu& gpu) {
  const double depth = kMarchSteps * 16, pixels = kMarchColsU + kMarchCols;
  const double tensor = 64 * depth * pixels / (gpu.fma_16bit / 0.6);
  // Of ten pieces of a pixel's depth six do not start so: those of two taps of three.
  const double of_pixels = (6 * kUnaligned + 4) * kPieceBytes * pixels, of_weights = 2.0 * kMarchVersionBytes;
  const double rows_x = (2.0 * kMarchMost / kMarchOutputs + 2) * kMarchPieces * kMarchPlaneX;  // in, read, arranged, read again
  const double rows_u = kMarchPieces * kMarchPlaneU, rows_y = 2.0 * kMarchOutBytes;
  const double shared = (of_pixels + of_weights + rows_x + rows_u + rows_y) / 128 / kUseOfShared;
  const double memory = 2.0 * kMarchCols * double(s.c) * 2 * gpu.multiprocessors * gpu.clock / gpu.memory;
  const double busy = kMarchGroups * std::max({tensor, shared, kRowInstructions / kIssue, memory});
  return std::max(busy, kRowClocks);
}

std::string why_not(const RefinePlan& plan, const MapLayout& x, const MapLayout& out, const Gpu& gpu) {
  const RefineSizes& s = plan.sizes;
  if (!gpu.hopper) return "the kernels of sm_90a are not in this build, or the GPU is another one";
  if (plan.math != Math::kHalf && plan.math != Math::kBFloat16) return "it takes bfloat16 and float16";
  if (std::min(s.c, s.m) < kMarchLeast || std::max(s.c, s.m) > kMarchMost) return "it takes 17 to 21 channels";
  for (const MapLayout* map : {&x, &out}) {
    if (rows_of(s, *map) == Rows::kNone)
      return "it takes maps in NCHW or channels_last whose rows are multiples of eight pixels, at multiples of 16 bytes";
  }
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
  if (s.n * ceil_div(s.w, kMarchCols) > kMost / s.h || s.w * kMarchMost > kMost)
    return "it counts rows and their numbers in 31 bits";
  return "";
}

}  // namespace

void plan_refine_march(RefinePlan& plan, const MapLayout& x, const MapLayout& out, const Gpu& gpu) {
  const RefineSizes& s = plan.sizes;
  const bool wherever = gpu.overrides.refine_march == 1;
  if (gpu.generation != Generation::kHopper && !wherever) {
    plan.why_portable = "the kernel of sm_90a is used where it is asked for, as no GPU has run it";
    return;
  }
  plan.why_portable = why_not(plan, x, out, gpu);
  if (!plan.why_portable.empty()) return;
  RefineMarch& p = plan.march;
  p.conv[0] = plan.tile.conv[0], p.conv[1] = plan.tile.conv[1];
  p.x_by_pixels = rows_of(s, x) == Rows::kOfPixels, p.out_by_pixels = rows_of(s, out) == Rows::kOfPixels;
  p.n = int(s.n), p.c = int(s.c), p.m = int(s.m), p.h = int(s.h), p.w = int(s.w);
  p.strips = int(ceil_div(s.w, kMarchCols));
  // Segments as long as they may be while all warpgroups have one at a time; each starts four rows before its own.
  const int64_t groups = int64_t(gpu.multiprocessors) * kMarchGroups, of_maps = s.n * p.strips;
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (int64_t segments = 1; segments <= std::min(s.h, 2 * groups); ++segments) {
    const int64_t rows = ceil_div(s.h, segments), units = of_maps * ceil_div(s.h, rows);
    const int64_t marched = ceil_div(units, groups) * (rows + 4);
    if (marched >= fewest) continue;
    fewest = marched;
    p.rows = int(rows), p.segments = int(ceil_div(s.h, rows)), p.units = int(units);
  }
  const double seconds = (kStartClocks + double(fewest) * row_clocks(s, gpu)) / gpu.clock + gpu.launch;
  if (seconds >= plan.seconds && !wherever) {
    plan.why_portable = "the portable kernel should take less time";
    return;
  }
  plan.blocks = int(std::min<int64_t>(ceil_div(p.units, kMarchGroups), gpu.multiprocessors));
  plan.resident = 1, plan.shared_bytes = kMarchSharedBytes;
  plan.seconds = seconds;
  plan.workspace_bytes = 0, plan.why_direct = "";
}

}  // namespace gcn::cuda
