#include "strips_plan.h"

#include <algorithm>
#include <limits>

#include "../tiles.h"
#include "strips_layout.h"

namespace gcn::cuda {
namespace {

using gcn::strips::Buffer, gcn::strips::Dot, gcn::strips::Kernel, gcn::strips::kNone, gcn::strips::Program;

constexpr int kCores[] = {8, 16, 24, 32, 48, 64, 96, 128};  // of a tile, beside all of an image
constexpr int kMostChannels = 32, kThreadCounts[] = {256, 512};
constexpr int kRegisters = 112, kRegistersOfMultiprocessor = 1 << 16, kThreadsOfMultiprocessor = 2048, kReservedShared = 1024;

// Estimates, of instructions of a warp and of clocks that a block waits.
constexpr double kIssue = 4, kHalfWarps = 4;  // instructions a clock and multiprocessor; warps that reach half of them
constexpr double kTaskInstructions = 60, kLineInstructions = 14, kTapInstructions = 9.6, kDilatedTapInstructions = 18;
constexpr double kMoveInstructions = 14;  // an element of an image, in or out
constexpr double kPieceInstructions = 115, kDotInstructions = 80;
constexpr double kLoadWait = 1500, kStepWait = 250;
constexpr double kBytesAtOnce = 32;  // of device memory

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int round_up(int64_t n) { return int(ceil_div(n, kStripsGroup) * kStripsGroup); }

struct Axes {
  int64_t taps, lines, padded, dilation;

  explicit Axes(const Kernel& k) : taps(std::max(k.kh, k.kw)), lines(std::min(k.kh, k.kw)), padded(round_up(taps)) {
    dilation = k.kh > k.kw ? k.dh : k.dw;
  }
};

// The operations of a layout with their places in shared memory and among the sums.
struct Places {
  std::vector<StripsOp> ops;
  int weight_plane = 0, sums = 0;
  int64_t scratch = 0;  // elements
};

Places place(const Program& p, const StripsLayout& layout, const StripsCore& core, int channels, int threads) {
  Places found;
  found.ops = layout.ops;
  for (StripsOp& op : found.ops) {
    if (op.kind != StripsKind::kConv && op.kind != StripsKind::kDot) continue;
    const Axes axes(p.kernels[op.kernel]);
    if (op.kind == StripsKind::kConv) {
      op.weights = found.weight_plane;
      found.weight_plane += int(axes.lines * axes.padded) + kStripsGroup;
      continue;
    }
    op.sums = found.sums;
    found.sums += int(op.weight ? axes.lines * axes.taps : 0) + op.bias;
    const int64_t items = channels * ((op.weight ? axes.lines * axes.padded / kStripsGroup : 0) + op.bias);
    const int64_t pieces = int64_t(core.h) * core.w / kStripsGroup;
    const int64_t warps = threads / 32, useful = std::max<int64_t>(1, pieces / 64);
    op.splits = static_cast<signed char>(std::clamp<int64_t>(ceil_div(3 * warps, items), 1, std::min<int64_t>(useful, 64)));
    found.scratch = std::max(found.scratch, items * op.splits * kStripsGroup);
  }
  return found;
}

class Planner {
 public:
  Planner(const Program& p, const StripsSizes& s, Math math, const std::vector<Strides>& images, const Gpu& gpu)
      : p_(p), s_(s), math_(math), images_(images), gpu_(gpu) {
    // Neighbouring threads read neighbouring channels where those are neighbours in all images.
    channels_first_ = s.c > 1;
    for (const Strides& strides : images) channels_first_ = channels_first_ && strides.c == 1 && strides.w != 1;
  }

  // False if no tile fits in shared memory.
  bool find(StripsPlan& plan) {
    double best = std::numeric_limits<double>::infinity();
    for (const int h : cores(s_.h)) {
      for (const int w : cores(s_.w)) {
        const StripsCore core{h, w, h >= s_.h, w >= s_.w};
        bool fits = false;
        const StripsLayout layout = lay_out(p_, core, fits);
        if (!fits) continue;
        for (int channels = 1; channels <= kMostChannels && (channels == 1 || channels / 2 < s_.c); channels *= 2) {
          for (const int threads : kThreadCounts) consider(core, layout, channels, threads, plan, best);
        }
      }
    }
    return best < std::numeric_limits<double>::infinity();
  }

 private:
  static std::vector<int> cores(int64_t size) {
    std::vector<int> found;
    for (const int core : kCores)
      if (core < size) found.push_back(core);
    if (size <= 1024) found.push_back(round_up(size));
    return found;
  }

  int64_t accumulator_bytes() const { return math_ == Math::kDouble ? 8 : 4; }

  void consider(const StripsCore& core, const StripsLayout& layout, int channels, int threads, StripsPlan& plan, double& best) {
    const Places places = place(p_, layout, core, channels, threads);
    const int64_t weights = int64_t(channels) * places.weight_plane;
    const int64_t bytes = (weights + channels * layout.elements + places.scratch) * accumulator_bytes();
    if (bytes > gpu_.shared_per_block) return;
    StripsTile t = {};
    t.tile_h = core.h, t.tile_w = core.w;
    t.tiles_h = int(ceil_div(s_.h, core.h)), t.tiles_w = int(ceil_div(s_.w, core.w));
    t.channels = channels, t.groups = int(ceil_div(s_.c, channels));
    const int64_t units = s_.n * t.groups * t.tiles_h * t.tiles_w;
    const int64_t by_shared = gpu_.shared_per_multiprocessor / (bytes + kReservedShared);
    const int64_t by_threads = std::min(kRegistersOfMultiprocessor / (kRegisters * threads), kThreadsOfMultiprocessor / threads);
    const int resident = int(std::max<int64_t>(1, std::min(by_shared, by_threads)));
    const double seconds = predict(core, layout, places, channels, units, threads, resident);
    if (seconds >= best) return;
    best = seconds;
    t.n = int(s_.n), t.c = int(s_.c), t.h = int(s_.h), t.w = int(s_.w);
    t.channels_first = channels_first_;
    t.weight_plane = places.weight_plane, t.sums = places.sums;
    for (size_t i = 0; i < layout.maps.size(); ++i) {
      t.map[i] = layout.maps[i];
      t.map[i].first = int(weights) + channels * layout.maps[i].first;
    }
    t.scratch = int(weights + channels * layout.elements);
    t.ops = int(places.ops.size());
    std::copy(places.ops.begin(), places.ops.end(), t.op);
    plan.tile = t, plan.units = units, plan.threads = threads, plan.shared_bytes = int(bytes), plan.resident = resident;
    plan.seconds = seconds;
  }

  // Of the whole launch: the busiest of instructions and memory, or what a block takes alone, where too few share a
  // multiprocessor to hide that it waits.
  double predict(const StripsCore& core, const StripsLayout& layout, const Places& places, int channels, int64_t units,
                 int threads, int resident) const {
    double instructions = 0, wait = 0, bytes = 0;
    const double element = element_bytes(math_);
    const double wasted = channels_first_ ? std::max(1.0, kBytesAtOnce / (channels * element)) : 1.0;
    const double core_area = double(std::min<int64_t>(core.h, s_.h)) * double(std::min<int64_t>(core.w, s_.w)) * channels;
    for (const StripsOp& op : places.ops) {
      wait += op.kind == StripsKind::kLoad ? kLoadWait : kStepWait;
      if (op.kind == StripsKind::kLoad) {
        const StripsMap& m = layout.maps[op.dst];
        const double rows = double(std::min<int64_t>(m.rows, s_.h)), cols = double(std::min<int64_t>(m.cols, s_.w));
        instructions += kMoveInstructions * m.rows * m.cols * channels / 32;
        bytes += rows * cols * channels * element * wasted;
      } else if (op.kind == StripsKind::kStore) {
        instructions += kMoveInstructions * core_area / 32;
        bytes += core_area * element * wasted;
      } else if (op.kind == StripsKind::kConv) {
        const StripsMap& m = layout.maps[op.dst];
        const Axes axes(p_.kernels[op.kernel]);
        const double rows = core.covers_h ? core.h : m.rows, cols = core.covers_w ? core.w : m.cols;
        const double of_line = kLineInstructions + axes.taps * (axes.dilation == 1 ? kTapInstructions : kDilatedTapInstructions);
        instructions += rows * cols * channels / kStripsGroup / 32 * (kTaskInstructions + axes.lines * of_line);
      } else {
        const Axes axes(p_.kernels[op.kernel]);
        const double items = channels * (axes.lines * axes.padded / kStripsGroup);
        instructions += items * (core_area / channels / kStripsGroup / 32 * kPieceInstructions + op.splits * kDotInstructions);
      }
    }
    const auto clocks = [&](double warps) { return instructions / kIssue * (1 + kHalfWarps / warps); };
    const double busy = std::max(clocks(resident * threads / 32), bytes * gpu_.multiprocessors * gpu_.clock / gpu_.memory);
    const double alone = clocks(threads / 32) + wait;
    const int64_t at_once = int64_t(gpu_.multiprocessors) * resident, waves = units / at_once, left = units % at_once;
    const double of_wave = std::max(resident * busy, alone);
    const double of_rest = left ? std::max(double(ceil_div(left, gpu_.multiprocessors)) * busy, alone) : 0;
    return (double(waves) * of_wave + of_rest) / gpu_.clock;
  }

  const Program& p_;
  const StripsSizes& s_;
  Math math_;
  const std::vector<Strides>& images_;
  const Gpu& gpu_;
  bool channels_first_;
};

size_t whole_lines(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

StripsPlan plan_strips(const Program& given, const StripsSizes& sizes, Math math, const std::vector<Strides>& images,
                       const Gpu& gpu) {
  Program program = given;
  // Taps that are further apart than the map is long touch nothing but its padding, however far.
  for (Kernel& k : program.kernels) k.dh = std::min(k.dh, sizes.h), k.dw = std::min(k.dw, sizes.w);
  StripsPlan plan = {};
  plan.program = program, plan.sizes = sizes, plan.math = math;
  for (const Strides& image : images) plan.images.push_back({nullptr, image.n, image.c, image.h, image.w});
  if (!fits_kernel(program)) {
    plan.why_direct = "more steps than one launch has room for";
  } else if (!Planner(program, sizes, math, images, gpu).find(plan)) {
    plan.why_direct = "no tile of the maps that the steps reach fits in shared memory";
  }
  const size_t accumulator = math == Math::kDouble ? 8 : 4;
  if (!plan.why_direct.empty()) {
    for (const Buffer& b : program.buffers) {
      plan.map_at.push_back(plan.workspace_bytes);
      if (b.image == kNone) plan.workspace_bytes += whole_lines(accumulator * size_t(sizes.n * sizes.c * sizes.h * sizes.w));
    }
    return plan;
  }
  std::copy(plan.images.begin(), plan.images.end(), plan.tile.image);
  for (size_t i = 0; i < program.kernels.size(); ++i) {
    const Kernel& k = program.kernels[i];
    plan.tile.kernel[i] = {nullptr, nullptr, int(k.kh), int(k.kw), int(k.dh), int(k.dw)};
  }
  if (plan.tile.sums) {
    plan.finish.c = int(sizes.c), plan.finish.sums = plan.tile.sums;
    plan.finish.parts = sizes.n * plan.tile.tiles_h * plan.tile.tiles_w;
    plan.workspace_bytes = accumulator * size_t(plan.finish.parts * sizes.c) * size_t(plan.tile.sums);
  }
  return plan;
}

}  // namespace gcn::cuda
