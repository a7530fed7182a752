#include "refine_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gcn::cuda {
namespace {

// Of regions of u. Rows are those of a tile's units, which are pairs; units lie side by side in powers of two.
constexpr int kMostRows = 40, kMostAcrossLog = 2;
constexpr int kReservedShared = 1024;
// Two pixels before a map are written to, and never read.
constexpr int kSlackBefore = 64;

// Estimates: of what the tensor cores and shared memory reach of their ceilings; how many instructions a multiprocessor issues in
// a clock; clocks that a block waits for a tile of device memory, and at a barrier.
constexpr double kUse = 0.85, kIssue = 2.5, kLoadWait = 1500, kBarrierWait = 150;
// Instructions of a warp as they stand in the machine code for sm_90 in 16 bits: of a unit of a convolution before its first step
// and behind the last, a step beside its products, and of eight outputs, where a channel of the rest is stored three times; of
// two pixels of a map in NCHW on their way in, a piece and the packed ones, and out; of a unit of the gradients likewise.
constexpr double kUnitInstructions = 100, kStepInstructions = 37, kBlockInstructions = 70, kRestInstructions = 220;
constexpr double kLoadInstructions = 88, kPackedInstructions = 112, kStoreInstructions = 66, kWordInstructions = 60;
constexpr double kGradInstructions = 230, kGradStepInstructions = 95;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int round_up(int64_t n, int64_t to) { return int(ceil_div(n, to) * to); }

// Bytes of a plane of pieces. Two pixels behind a map are read and not used. Planes that are an odd number of 64 bytes
// apart let two of them be read at a time without a conflict of banks.
int plane_of(int rows, int cols) { return (round_up(rows * cols - 2, 8) + 4) * kPieceBytes; }

int pieces_of(const RefinePixel& pixel) { return pixel.whole + pixel.packed; }
int depth_of(const RefinePixel& pixel) { return 3 * pixel.whole + pixel.packed; }

RefinePixel pixel_of(int64_t channels, Math math) { return refine_pixel(int(channels), kPieceBytes / element_bytes(math)); }

// A convolution that reads a map of `inputs` channels, and writes `written`.
RefineConv conv_of(int64_t outputs, int64_t inputs, int64_t written, const RefinePixel& pixel) {
  RefineConv conv = {};
  conv.outputs = int(outputs), conv.inputs = int(inputs), conv.pixel = pixel;
  conv.groups = int(ceil_div(written, kRefineOutputs));
  conv.steps = int(ceil_div(depth_of(pixel), 2));
  return conv;
}

RefineGrad grad_of(int64_t a, int64_t b, const RefinePixel& pixel, Math math, int first) {
  const int numbers = depth_of(pixel) * kPieceBytes / element_bytes(math);
  return {nullptr, nullptr, int(a), int(b), pixel, int(ceil_div(numbers, kRefineWindows)), int(ceil_div(a, kRefineOutputs)),
          first};
}
// The biases of a group are a unit of their own.
int units_of(const RefineGrad& g) { return (g.windows + 1) * g.groups; }

class Planner {
 public:
  Planner(RefinePlan& plan, const Gpu& gpu) : plan_(plan), s_(plan.sizes), gpu_(gpu), element_(element_bytes(plan.math)) {
    RefineTile& t = base_;
    t.n = int(s_.n), t.c = int(s_.c), t.m = int(s_.m), t.h = int(s_.h), t.w = int(s_.w);
    t.wants_dx = plan.wanted.x, t.wants_du = plan.wanted.du();
    t.pixel_c = pixel_of(s_.c, plan.math), t.pixel_m = pixel_of(s_.m, plan.math);
    // u has the zeros of a whole piece.
    const int64_t of_u = t.pixel_m.packed ? s_.m : t.pixel_m.whole * kPieceBytes / element_;
    t.conv[0] = conv_of(s_.m, s_.c, of_u, t.pixel_c);
    t.conv[1] = plan.backward ? t.conv[0] : conv_of(s_.c, s_.m, s_.c, t.pixel_m);
    t.conv[2] = conv_of(s_.c, s_.m, s_.c, t.pixel_m);
    if (plan.backward) {
      // As they stand in memory; w2 and, for dx, w1 are read as the gradients of their inputs see them.
      t.conv[1].of_output = 9, t.conv[1].of_input = int(9 * s_.m), t.conv[1].flipped = true;
      t.conv[2].of_output = 9, t.conv[2].of_input = int(9 * s_.c), t.conv[2].flipped = true;
    } else {
      t.conv[1].of_output = int(9 * s_.m), t.conv[1].of_input = 9;
    }
    t.conv[0].of_output = int(9 * s_.c), t.conv[0].of_input = 9;
    t.grad[0] = grad_of(s_.m, s_.c, t.pixel_c, plan.math, 0);
    t.grad[1] = grad_of(s_.c, s_.m, t.pixel_m, plan.math, units_of(t.grad[0]));
    t.units = t.grad[1].first + units_of(t.grad[1]);
    plan.tile = t;  // the kernels without tiles need the convolutions
  }

  // False if no tile fits in shared memory.
  bool find() {
    double best = std::numeric_limits<double>::infinity();
    for (int rows = 4; rows <= kMostRows; rows += kRefineUnitRows) {
      for (int across_log = 0; across_log <= kMostAcrossLog; ++across_log) {
        for (const bool in_turns : {false, true}) consider(rows, across_log, in_turns, best);
      }
    }
    return best < std::numeric_limits<double>::infinity();
  }

 private:
  int convs() const { return plan_.backward ? 3 : 2; }

  static int64_t words_of(const RefineConv& conv) { return int64_t(conv.groups) * conv.steps * 3 * kRefineOutputBlocks * 64; }

  // In front of the maps: a piece of zeros, weights and biases of every convolution. Returns where the maps start.
  int64_t place_weights(RefineTile& t) const {
    int64_t front = 0, at = 128;
    for (int i = 0; i < convs(); ++i) {
      RefineConv& conv = t.conv[i];
      const int64_t of_weights = words_of(conv) * 4, of_biases = round_up(conv.groups * kRefineOutputs * 4, 128);
      conv.weights = int(at), conv.biases = int(at + of_weights), conv.places = int(at + of_weights + of_biases);
      front = std::max(front, conv.places + int64_t(round_up(conv.steps * 8, 128)));
      if (!t.in_turns) at = front;
    }
    return front;
  }

  void consider(int rows, int across_log, bool in_turns, double& best) {
    RefineTile t = base_;
    const int cols = kRefineUnitCols << across_log;
    t.rows = rows, t.cols = cols, t.across_log = across_log, t.in_turns = in_turns;
    t.tiles_h = int(ceil_div(s_.h, rows - 2)), t.tiles_w = int(ceil_div(s_.w, cols - 2));
    t.tiles = s_.n * t.tiles_h * t.tiles_w;
    int64_t bytes = place_weights(t);
    const auto map = [&](int& at, int plane, const RefinePixel& pixel) {
      at = int(bytes) + kSlackBefore;
      bytes += kSlackBefore + int64_t(plane) * pieces_of(pixel);
    };
    t.plane_x = plane_of(rows + 2, cols + 2), t.plane_u = plane_of(rows, cols);
    t.conv[0].plane = t.plane_x, t.conv[1].plane = plan_.backward ? t.plane_x : t.plane_u, t.conv[2].plane = t.plane_u;
    map(t.maps_at[0], t.plane_x, t.pixel_c);
    map(t.u_at, t.plane_u, t.pixel_m);
    if (plan_.backward) map(t.maps_at[1], t.plane_x, t.pixel_c);
    if (bytes > gpu_.shared_per_block) return;
    const int64_t fit = gpu_.shared_per_multiprocessor / (bytes + kReservedShared);
    const int resident = int(std::clamp<int64_t>(fit, 1, refine_most_blocks(plan_.math == Math::kFloat)));
    const double seconds = predict(t, resident);
    if (seconds >= best) return;
    best = seconds;
    plan_.tile = t, plan_.resident = resident, plan_.shared_bytes = int(bytes), plan_.seconds = seconds;
    plan_.blocks = int(std::min<int64_t>(t.tiles, int64_t(gpu_.multiprocessors) * resident));
  }

  // What the warps of a block do between two barriers: so many units, each of so many products, bytes of shared memory and
  // instructions of a warp.
  struct Phase {
    double units, products, shared_bytes, instructions;
  };

  // `stored`: a map that others read packed, or null.
  Phase of_conv(const RefineConv& conv, int rows, int cols, const RefinePixel* stored) const {
    const double units = double(conv.groups) * (rows / kRefineUnitRows) * (cols / kRefineUnitCols);
    const double packed = stored && stored->packed ? 1.0 / conv.groups : 0;  // of the groups, one block
    // A channel of the rest is eight stores of three numbers for each of two.
    const double bytes = conv.steps * (8 * 512.0 + 9 * 256.0) + 1024 * element_ + packed * 48 * 128;
    return {units, 36.0 * conv.steps * product_parts(), bytes,
            kUnitInstructions + conv.steps * (36 * product_instructions() + kStepInstructions) +
                (3 - packed) * kBlockInstructions + packed * kRestInstructions};
  }

  // A step is four rows of pixels. A unit of a bias takes a third of the loads, and few products.
  Phase of_grad(const RefineGrad& g, int rows, int cols) const {
    const double units = g.windows * g.groups, steps = std::ceil(rows / 4.0) * std::ceil(cols * element_ / 32.0);
    const double products = 36 + 12 / double(g.windows);
    return {units, products * steps * product_parts(), steps * (6 * 512 + (12 + 4.0 / g.windows) * 256),
            kGradInstructions + steps * (products * product_instructions() + kGradStepInstructions)};
  }

  // Products of the tensor cores that make one, and clocks of a multiprocessor for each: 2048 multiply-adds in 16 bits, or half
  // as many at half the rate.
  double product_parts() const { return plan_.math == Math::kFloat ? 3 : 1; }
  double product_clocks() const { return 2048 / gpu_.fma_16bit; }
  // With what splits the factors and adds up outside of the tensor cores, as it stands in the machine code for sm_90.
  double product_instructions() const { return plan_.math == Math::kFloat ? 27 : 1; }

  // Of the whole launch: the busiest of tensor cores, shared memory, instructions and device memory; or what a block takes alone,
  // where too few share a multiprocessor to hide that it waits.
  double predict(const RefineTile& t, int resident) const {
    const int core_rows = t.rows - 2, core_cols = t.cols - 2;
    double tensor = 0, shared = 0, instructions = 0, alone = kLoadWait;
    const auto add = [&](const Phase& p) {
      const double of_tensor = p.products * product_clocks() / kUse, of_shared = p.shared_bytes / 128 / kUse;
      const double of_issue = p.instructions / kIssue;
      tensor += p.units * of_tensor, shared += p.units * of_shared, instructions += p.units * p.instructions;
      // The last units do not give every warp one.
      alone += std::ceil(p.units / kRefineWarps) * kRefineWarps * std::max({of_tensor, of_shared, of_issue}) + kBarrierWait;
    };
    add(of_conv(t.conv[0], t.rows, t.cols, &t.pixel_m));
    if (!plan_.backward) {
      add(of_conv(t.conv[1], core_rows, t.cols, nullptr));
    } else {
      if (t.wants_du) add(of_conv(t.conv[1], t.rows, t.cols, &t.pixel_m));
      if (plan_.wanted.w1 || plan_.wanted.b1) add(of_grad(t.grad[0], core_rows, core_cols));
      if (plan_.wanted.w2 || plan_.wanted.b2) add(of_grad(t.grad[1], core_rows, core_cols));
      if (t.wants_dx) add(of_conv(t.conv[2], core_rows, t.cols, nullptr));
    }
    const int loads = plan_.backward ? 2 : 1, stores = !plan_.backward || t.wants_dx;
    const RefinePixel& pixel = t.pixel_c;
    const double loaded = loads * double(t.rows + 2) * (t.cols + 2), stored = stores * double(core_rows) * core_cols;
    const double pieces_out = pixel.whole + (pixel.packed ? 1 : 0);
    const double of_pairs = loaded * (pixel.whole * kLoadInstructions + (pixel.packed ? kPackedInstructions : 0)) +
                            stored * pieces_out * kStoreInstructions;
    add({kRefineWarps, 0, (loaded * pieces_of(pixel) + stored * pieces_out) * kPieceBytes / kRefineWarps,
         of_pairs / 2 / 32 / kRefineWarps});
    if (t.in_turns) {
      double words = 0;
      for (int i = 0; i < convs(); ++i) words += double(words_of(t.conv[i]));
      add({kRefineWarps, 0, words * 4 / kRefineWarps, words * kWordInstructions / 32 / kRefineWarps});
    }
    // Sums of a tile are added to those before, which stay in L2.
    const double of_l2 = plan_.backward && plan_.wanted.sums()
                             ? t.units * kRefineSums * 32 * 4 * 2.0 * gpu_.multiprocessors * gpu_.clock / gpu_.l2
                             : 0;
    const double useful = double(core_rows) * core_cols * double(s_.c) * element_ * (loads + stores);
    const double of_memory = useful * gpu_.multiprocessors * gpu_.clock / gpu_.memory;
    const double busy = std::max({tensor, shared, instructions / kIssue, of_memory, of_l2});
    const double rounds = std::ceil(double(ceil_div(t.tiles, gpu_.multiprocessors)) / resident);
    const double clocks = rounds * std::max(resident * busy, alone);
    return clocks / gpu_.clock + gpu_.launch * (plan_.backward && plan_.wanted.sums() ? 2 : 1);
  }

  RefinePlan& plan_;
  const RefineSizes& s_;
  const Gpu& gpu_;
  const int element_;
  RefineTile base_ = {};
};

// Of what cannot be avoided: maps read and written once, or the products that are no padding at the full matrix rate, of which
// mma.sync is taken to reach 60 %.
double floor_of(const RefinePlan& plan, const Gpu& gpu) {
  const RefineSizes& s = plan.sizes;
  const double pixels = double(s.n) * double(s.h) * double(s.w), element = element_bytes(plan.math);
  const int convs = plan.backward ? 1 + plan.wanted.du() + plan.wanted.x + plan.wanted.w1 + plan.wanted.w2 : 2;
  const int maps = plan.backward ? 2 + plan.wanted.x : 2;
  const double rate =
      gpu.multiprocessors * gpu.clock * gpu.fma_16bit / 0.6 / (element == 2 ? 1 : 2) / (plan.math == Math::kFloat ? 3 : 1);
  return std::max(9.0 * double(s.c) * double(s.m) * pixels * convs / rate, maps * pixels * double(s.c) * element / gpu.memory);
}

RefinePlan plan_refine(const RefineSizes& sizes, Math math, bool backward, const RefineWanted& wanted, const Gpu& gpu) {
  RefinePlan plan = {};
  plan.sizes = sizes, plan.math = math, plan.backward = backward, plan.wanted = wanted;
  plan.floor = floor_of(plan, gpu);
  Planner planner(plan, gpu);
  if (math == Math::kDouble) {
    plan.why_direct = "float64";
  } else if (!planner.find()) {
    plan.why_direct = "no tile of so many channels fits in shared memory";
  }
  const auto whole = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
  if (!plan.why_direct.empty()) {
    const size_t map = whole(size_t(sizes.n * sizes.m * sizes.h * sizes.w) * (math == Math::kDouble ? 8 : 4));
    plan.workspace_bytes = backward && wanted.du() ? 2 * map : map;
  } else if (backward && wanted.sums()) {
    plan.workspace_bytes = size_t(plan.blocks) * size_t(plan.tile.units) * kRefineSums * 32 * sizeof(float);
  }
  return plan;
}

}  // namespace

RefinePlan plan_refine_forward(const RefineSizes& sizes, Math math, const MapLayout& x, const MapLayout& out, const Gpu& gpu) {
  RefinePlan plan = plan_refine(sizes, math, false, {}, gpu);
  plan_refine_march(plan, x, out, gpu);
  return plan;
}

RefinePlan plan_refine_backward(const RefineSizes& sizes, Math math, const RefineWanted& wanted, const Gpu& gpu) {
  return plan_refine(sizes, math, true, wanted, gpu);
}

}  // namespace gcn::cuda
