#include <algorithm>

#include "engine.h"

namespace gcn::cpu::strips {
namespace {

// What the rings of a unit may take: the L2 cache of today's cores and their part of L3, from which rows come without waiting.
// What a narrower tile computes once more, for its halo, costs more than that.
constexpr int64_t kCacheBytes = 4 << 20;
constexpr int64_t kViewBytes = 128;  // more than that of the march
// Row cells of a map at most: sums for gradients are kept for each.
constexpr int64_t kMostCells = 8, kMostParts = 16;
// Vectors of lanes turned, in multiply-adds, on the way in or out; and the start of a unit.
constexpr double kMoveCost = 8, kUnitCost = 4000;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of a block, and what halos are rounded up to: then vertical convolutions always write whole groups of rows.
constexpr int64_t kBlockRows = 16, kRowGroup = 8;

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A small map is one block.
constexpr int64_t kSmallMap = 32;

// A block of a map with vertical dilation d is d interleaved problems, each of which should still fill a group of rows.
int64_t block_rows(const Program& p, int64_t height) {
  if (height <= kSmallMap) return height;
  int64_t rows = kBlockRows;
  for (const Kernel& k : p.kernels)
    if (k.kh > 1) rows = std::max(rows, kRowGroup * k.dh);
  return std::min(rows, height);
}

int64_t ring_bytes(const Program& program, const Plan& plan) {
  const int64_t vector = plan.lanes * (plan.float64 ? 8 : 4);
  int64_t bytes = 0;
  for (const Buffer& b : program.buffers) bytes += ring_rows(program, b, plan.sizes.h) * ring_pitch(b, plan, vector) + 64;
  return bytes;
}

// Multiply-adds of vectors of one unit.
double unit_cost(const Program& program, const Plan& plan, int64_t rows) {
  const auto area = [&](const Buffer& b) {
    return static_cast<double>(std::min(rows + 2 * b.rh, plan.sizes.h)) *
           static_cast<double>(std::min(plan.tile_width + 2 * b.rw, plan.sizes.w));
  };
  double cost = 0;
  for (const Step& step : program.steps)
    cost += static_cast<double>(program.kernels[step.kernel].taps()) * area(program.buffers[step.dst]);
  for (const Dot& dot : program.dots)
    cost += static_cast<double>(program.kernels[dot.kernel].taps() * rows * std::min(plan.tile_width, plan.sizes.w));
  for (const Buffer& b : program.buffers)
    if (b.image >= 0) cost += kMoveCost * area(b);
  return kUnitCost + cost * static_cast<double>(ceil_div(plan.sizes.n, plan.parts));
}

}  // namespace

// How far each map reaches around the tile, and how long its rows live.
void measure(Program& p, int64_t height) {
  p.rows = block_rows(p, height);
  const int64_t group = height == p.rows ? height : kRowGroup;
  std::vector<Buffer>& b = p.buffers;
  const auto need = [&](int buffer, int64_t rh, int64_t rw, int64_t low) {
    b[buffer].rh = std::max(b[buffer].rh, rh);
    b[buffer].rw = std::max(b[buffer].rw, rw);
    b[buffer].low = std::min(b[buffer].low, low);
  };
  for (const Dot& dot : p.dots) {
    const Kernel& k = p.kernels[dot.kernel];
    need(dot.g, 0, 0, 0);
    if (dot.weight) need(dot.x, k.reach_h(), k.reach_w(), -k.reach_h());
  }
  for (auto step = p.steps.rbegin(); step != p.steps.rend(); ++step) {
    Buffer& dst = b[step->dst];
    // All steps that write a map come after all that read it in this order, so its reach is known by now.
    dst.rh = round_up(dst.rh, group);
    const Kernel& k = p.kernels[step->kernel];
    need(step->src, dst.rh + k.reach_h(), dst.rw + k.reach_w(), dst.rh - k.reach_h());
    if (step->addend != kNone && step->addend != step->dst) need(step->addend, dst.rh, dst.rw, dst.rh);
  }
  for (Buffer& buffer : b) {
    buffer.rh = round_up(buffer.rh, group);
    buffer.low = std::min(buffer.low, buffer.rh);
  }
}

Plan make_plan(const Program& program, const Sizes& sizes, bool float64, int64_t lanes, int64_t threads) {
  Plan plan = {};
  plan.sizes = sizes, plan.float64 = float64, plan.lanes = lanes;
  plan.groups = ceil_div(sizes.c, lanes);
  plan.parts = std::min(sizes.n, kMostParts);
  const int64_t blocks = ceil_div(sizes.h, program.rows);
  plan.cell_rows = program.rows * (program.dots.empty() ? 1 : ceil_div(blocks, kMostCells));
  plan.cells = ceil_div(sizes.h, plan.cell_rows);

  // The widest tiles whose rings fit, but not so narrow that halos are most of the work.
  int64_t reach = 0;
  for (const Buffer& b : program.buffers) reach = std::max(reach, b.rw);
  for (plan.tiles = 1;; ++plan.tiles) {
    plan.tile_width = ceil_div(sizes.w, plan.tiles);
    if (ring_bytes(program, plan) <= kCacheBytes || plan.tile_width / 2 < std::max<int64_t>(32, 2 * reach)) break;
  }
  plan.tiles = ceil_div(sizes.w, plan.tile_width);

  plan.cost = 0;
  Plan found = plan;
  for (int64_t bands = 1; bands <= plan.cells; ++bands) {
    plan.band_rows = ceil_div(plan.cells, bands) * plan.cell_rows;
    plan.bands = ceil_div(sizes.h, plan.band_rows);
    plan.cost =
        static_cast<double>(ceil_div(plan.units(), threads)) * unit_cost(program, plan, std::min(plan.band_rows, sizes.h));
    if (bands == 1 || plan.cost < found.cost) found = plan;
    if (plan.units() >= 4 * threads) break;
  }
  for (const Kernel& k : program.kernels) {
    found.table_size = std::max(found.table_size, k.length() + 16);
    const int64_t lines = k.along_h() ? std::min(found.tile_width + 2 * reach, sizes.w) : program.rows;
    found.bases_size = std::max(found.bases_size, lines * (k.across() + 2));
  }
  const int64_t vectors = 2 * program.taps() + static_cast<int64_t>(program.kernels.size());
  found.scratch_bytes = ring_bytes(program, found) + 8 * (found.table_size + found.bases_size) +
                        vectors * lanes * (float64 ? 8 : 4) + static_cast<int64_t>(program.buffers.size()) * kViewBytes + 512;
  return found;
}

const Engine* active_engine() {
#if GCN_FFT_HAVE_X86
  if (fft::active_isa() == fft::Isa::kAvx512) return &kAvx512Engine;
  if (fft::active_isa() == fft::Isa::kAvx2) return &kAvx2Engine;
#endif
#if GCN_FFT_HAVE_VECTORS
  return &kPortableEngine;
#else
  return nullptr;
#endif
}

int64_t vector_bytes() { return fft::active_isa() == fft::Isa::kAvx512 ? 64 : fft::active_isa() == fft::Isa::kAvx2 ? 32 : 16; }

}  // namespace gcn::cpu::strips
