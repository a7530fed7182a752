#include "upsample_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gcn::cuda {
namespace {

constexpr int kMostRows = 32, kReservedShared = 1024, kStripRows = 16, kStripThreads = 128;
// Pixels of x that a block of the kernels without tiles adds up, and bytes of the parts of all of them.
constexpr int64_t kDirectPixels = 4096, kDirectBytes = 256 << 20;

// Estimates: what the tensor cores, multiply-adds and shared memory reach of their ceilings; how many instructions a
// multiprocessor issues in a clock, and how many where most are multiply-adds; clocks that a block waits for a tile of device
// memory, and at a barrier.
constexpr double kUse = 0.85, kIssue = 2.5, kIssueOfMultiplyAdds = 3.4, kLoadWait = 1500, kBarrierWait = 150;
// Instructions of a warp as they stand in the machine code for sm_90 in 16 bits. Of a unit of a convolution before its first step
// and behind the last, and a step of two rows beside its products; of a unit of the sums likewise, whose step is 16 pixels.
constexpr double kUnitInstructions = 280, kStepInstructions = 27, kGradInstructions = 400, kGradStepInstructions = 12;
// Of a piece of two neighbours of x on its way in, and of dx out; of four neighbours of dy in, of y out, and what is added to
// them.
constexpr double kLoadInstructions = 88, kStoreInstructions = 74, kLoadFourInstructions = 131, kStoreFourInstructions = 150;
constexpr double kAddFourInstructions = 130, kWordInstructions = 60;
// Of a thread of the kernels without tiles and a pixel of a channel: each by itself forward, what is added, and backward; of many
// channels forward, and backward its gradient and the sums.
constexpr double kSingleForward = 70, kSingleAdd = 22, kSingleBackward = 130;
constexpr double kDirectForward = 150, kDirectGradient = 580, kDirectSums = 560;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }
size_t whole(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Bytes of a plane of pieces: an odd number of pieces, so that pieces of a pixel fall on different banks.
int plane_of(int rows, int cols) { return (rows * cols | 1) * kPieceBytes; }

double taps_of(const UpsampleSizes& s) { return double(s.k * s.k); }
double pixels_of(const UpsampleSizes& s) { return double(s.n) * double(s.h) * double(s.w); }
double outputs_of(const UpsampleSizes& s) { return double(s.n) * double(s.o) * double(s.yh) * double(s.yw); }

// Bytes that are read or written once.
double bytes_of(const UpsamplePlan& plan) {
  const UpsampleSizes& s = plan.sizes;
  const double x = pixels_of(s) * double(s.c), y = outputs_of(s), element = element_bytes(plan.math);
  if (!plan.backward) return (x + y * (s.add ? 2 : 1)) * element;
  return (y + x * (plan.wanted.x + plan.wanted.w)) * element;
}

// Multiply-adds a clock and multiprocessor: of the tensor cores, of which mma.sync reaches 60 %, or of the others.
double rate_of(Math math, const Gpu& gpu) {
  return upsample_on_tensor_cores(math) ? gpu.fma_16bit / 0.6 : math == Math::kDouble ? 64 : 128;
}

double floor_of(const UpsamplePlan& plan, const Gpu& gpu) {
  const UpsampleSizes& s = plan.sizes;
  const double products = taps_of(s) * pixels_of(s) * double(s.c) * (s.by_itself ? 1 : double(s.o));
  const double passes = plan.backward ? plan.wanted.x + plan.wanted.w : 1;
  const double rate =
      gpu.multiprocessors * gpu.clock * (s.by_itself ? (plan.math == Math::kDouble ? 64 : 128) : rate_of(plan.math, gpu));
  return std::max(products * passes / rate, bytes_of(plan) / gpu.memory);
}

class Planner {
 public:
  Planner(UpsamplePlan& plan, const Gpu& gpu)
      : plan_(plan),
        s_(plan.sizes),
        gpu_(gpu),
        element_(element_bytes(plan.math)),
        of_piece_(kPieceBytes / element_),
        on_tensor_cores_(upsample_on_tensor_cores(plan.math)) {
    UpsampleTile& t = base_;
    t.n = int(s_.n), t.c = int(s_.c), t.o = int(s_.o), t.h = int(s_.h), t.w = int(s_.w), t.yh = int(s_.yh), t.yw = int(s_.yw);
    t.wants_dx = plan.wanted.x, t.wants_dw = plan.wanted.w, t.wants_db = plan.wanted.b;
    t.pieces_x = int(ceil_div(s_.c, of_piece_)), t.pieces_y = int(ceil_div(s_.o, of_piece_));
    t.c_padded = int(on_tensor_cores_ ? round_up(s_.c, 16) : t.pieces_x * of_piece_);
    t.o_padded = int(on_tensor_cores_ ? round_up(s_.o, kUpsampleOutputs) : t.pieces_y * of_piece_);
    UpsampleConv& conv = t.conv;
    conv.turned = plan.backward, conv.k = int(s_.k), conv.most_taps = s_.k == 2 ? 1 : 2;
    const int taps = conv.k * conv.k, next_c = int(s_.o) * taps;
    conv.outputs = plan.backward ? t.c : t.o, conv.inputs = plan.backward ? t.o : t.c;
    conv.of_output = plan.backward ? next_c : taps, conv.of_input = plan.backward ? taps : next_c;
    conv.pieces = plan.backward ? t.pieces_y : t.pieces_x;
    conv.steps = int(ceil_div(conv.most_taps * conv.pieces, 2));
  }

  // False if no tile fits in shared memory.
  bool find() {
    double best = std::numeric_limits<double>::infinity();
    for (int rows = kUpsampleUnitRows; rows <= kMostRows; rows *= 2) {
      for (int cols = kUpsampleUnitCols; cols <= 4 * kUpsampleUnitCols; cols *= 2) {
        consider(rows, cols, kUpsampleOutputs, best);
        if (!on_tensor_cores_) consider(rows, cols, kUpsampleFewOutputs, best);
      }
    }
    return best < std::numeric_limits<double>::infinity();
  }

 private:
  int64_t weight_bytes(const UpsampleConv& conv) const {
    if (on_tensor_cores_) return int64_t(4) * conv.most_taps * conv.steps * conv.of_group / 8 * 64 * 4;
    return int64_t(4) * conv.most_taps * conv.most_taps * conv.pieces * kPieceBytes * conv.of_group;
  }

  void consider(int rows, int cols, int of_group, double& best) {
    UpsampleTile t = base_;
    t.rows = rows, t.cols = cols, t.rows_log = int(std::log2(rows)), t.cols_log = int(std::log2(cols));
    // Of a result that is cropped, no more than there is.
    t.tiles_h = int(ceil_div(plan_.backward ? s_.h : (s_.yh + 1) / 2, rows));
    t.tiles_w = int(ceil_div(plan_.backward ? s_.w : (s_.yw + 1) / 2, cols));
    t.conv.of_group = of_group, t.conv.groups = int(ceil_div(t.conv.outputs, of_group));
    t.tiles = s_.n * t.tiles_h * t.tiles_w;
    t.plane = plane_of(rows + 2 * kUpsampleHaloRows, cols + 2 * kUpsampleHaloCols), t.plane_out = plane_of(rows, cols);
    int64_t bytes = 0;
    const auto place = [&](int& at, int64_t size) { at = int(bytes), bytes += round_up(size, 128); };
    const bool multiplies = !plan_.backward || plan_.wanted.x;
    place(t.conv.weights, multiplies ? weight_bytes(t.conv) : 0);
    place(t.conv.biases, of_group * 8);
    place(t.x_at, !plan_.backward || plan_.wanted.w ? int64_t(t.plane) * t.pieces_x : 0);
    place(t.dy_at, plan_.backward ? int64_t(4) * t.plane * t.pieces_y : 0);
    place(t.out_at, multiplies ? int64_t(plan_.backward ? 1 : 4) * t.plane_out * (of_group / of_piece_) : 0);
    if (bytes > gpu_.shared_per_block) return;
    share_sums(t);
    const int64_t fit = gpu_.shared_per_multiprocessor / (bytes + kReservedShared);
    const int resident = int(std::clamp<int64_t>(fit, 1, kUpsampleMostBlocks));
    const double seconds = predict(t, resident);
    if (seconds >= best) return;
    best = seconds;
    plan_.tile = t, plan_.resident = resident, plan_.shared_bytes = int(bytes), plan_.seconds = seconds;
    plan_.blocks = int(std::min<int64_t>(t.tiles, int64_t(gpu_.multiprocessors) * resident));
  }

  // Shares of a tile's rows that give all threads sums to make.
  void share_sums(UpsampleTile& t) const {
    t.shares = 1;
    if (on_tensor_cores_ || !t.wants_dw) return;
    const auto turns = [&](int shares) { return ceil_div(grad_units(t) * shares, kUpsampleThreads) * ceil_div(t.rows, shares); };
    for (int shares = 2; shares <= t.rows; ++shares) {
      if (turns(shares) < turns(t.shares)) t.shares = shares;
    }
  }

  // Units of the sums: of a warp on the tensor cores, else of a thread.
  int64_t grad_units(const UpsampleTile& t) const {
    const int64_t of_taps = 4 * t.conv.most_taps;
    if (on_tensor_cores_) return of_taps * (t.c_padded / 16) * (t.o_padded / kUpsampleOutputs);
    return of_taps * t.pieces_x * t.pieces_y;
  }

  // What the warps of a block do between two barriers: so many units, each of so many clocks of the units that multiply, bytes of
  // shared memory and instructions of a warp.
  struct Phase {
    double units, clocks, shared_bytes, instructions;
  };

  // A row of taps is `depth` pieces; `taps` rows of a unit of `rows` rows.
  Phase of_conv(const UpsampleTile& t, int phases, int rows) const {
    const double places = double(t.rows / rows) * (t.cols / kUpsampleUnitCols) * phases, sums = plan_.backward ? 4 : 1;
    const double taps = taps_of(s_) / 4, columns = std::sqrt(taps);
    if (on_tensor_cores_) {
      const double steps = std::ceil(columns * t.conv.pieces / 2) * sums, products = 6 * rows * columns * steps;
      const double bytes = steps * (2 * (rows + columns - 1) * 512 + columns * 3 * 256) + 1536.0 * rows;
      return {places, products * 2048 / gpu_.fma_16bit, bytes, kUnitInstructions + products + steps * kStepInstructions};
    }
    const double channels = double(t.conv.pieces) * of_piece_, adds = taps * channels * rows * kUpsampleFewOutputs * sums;
    const double loads = columns * t.conv.pieces * sums * ((rows + columns - 1) + columns * kUpsampleFewOutputs);
    const double bytes = columns * t.conv.pieces * sums * ((rows + columns - 1) * 512 + columns * kUpsampleFewOutputs * 128.0);
    return {places * t.conv.of_group / kUpsampleFewOutputs, adds * 32 / rate_of(plan_.math, gpu_), bytes,
            kUnitInstructions / 2 + (adds + loads + sums * columns * t.conv.pieces * 6) * kIssue / kIssueOfMultiplyAdds};
  }

  Phase of_sums(const UpsampleTile& t) const {
    const double columns = std::sqrt(taps_of(s_) / 4);
    if (on_tensor_cores_) {
      const double steps = double(t.rows) * t.cols / 16, products = 3 * columns * steps;
      return {double(grad_units(t)), products * 2048 / gpu_.fma_16bit, steps * (3 * 256 + columns * 512),
              kGradInstructions + products + steps * kGradStepInstructions};
    }
    const double steps = std::ceil(double(t.rows) / t.shares) * t.cols, adds = columns * of_piece_ * of_piece_ * steps;
    return {double(ceil_div(grad_units(t) * t.shares, 32)), adds * 32 / rate_of(plan_.math, gpu_), steps * 4 * 512.0,
            kGradInstructions + (adds + steps * 22) * kIssue / kIssueOfMultiplyAdds};
  }

  // Of the whole launch: the busiest of the units that multiply, shared memory, instructions and device memory; or what a block
  // takes alone, where too few share a multiprocessor to hide that it waits.
  double predict(const UpsampleTile& t, int resident) const {
    double products = 0, shared = 0, instructions = 0, alone = kLoadWait;
    const auto add = [&](const Phase& p) {
      const double of_products = p.clocks / kUse, of_shared = p.shared_bytes / 128 / kUse, of_issue = p.instructions / kIssue;
      products += p.units * of_products, shared += p.units * of_shared, instructions += p.units * p.instructions;
      // The last units do not give every warp one.
      alone += std::ceil(p.units / kUpsampleWarps) * kUpsampleWarps * std::max({of_products, of_shared, of_issue}) + kBarrierWait;
    };
    const double around = double(t.rows + 2) * (t.cols + 4), inner = double(t.rows) * t.cols, groups = t.conv.groups;
    const double pieces_of_group = double(t.conv.of_group) / of_piece_;
    double x_in = 0, dy_in = 0, y_out = 0, dx_out = 0;  // pieces
    if (!plan_.backward) {
      Phase conv = of_conv(t, 4, kUpsampleUnitRows);
      conv.units *= groups;
      add(conv);
      x_in = around * t.pieces_x, y_out = 4 * inner * pieces_of_group * groups;
    } else {
      if (t.wants_dw) add(of_sums(t)), x_in = around * t.pieces_x;
      dy_in = 4 * around * t.pieces_y;
      if (t.wants_dx) {
        Phase conv = of_conv(t, 1, 1);
        conv.units *= groups;
        add(conv);
        dx_out = inner * pieces_of_group * groups;
      }
    }
    add({kUpsampleWarps, 0, (x_in + dy_in + y_out + dx_out) * kPieceBytes / kUpsampleWarps,
         (x_in / 2 * kLoadInstructions + dx_out / 2 * kStoreInstructions + dy_in / 4 * kLoadFourInstructions +
          y_out / 4 * (kStoreFourInstructions + (s_.add ? kAddFourInstructions : 0))) *
             of_piece_ / 8 / 32 / kUpsampleWarps});
    if (groups > 1) {
      const double words = groups * double(weight_bytes(t.conv)) / 4;
      add({kUpsampleWarps, 0, words * 4 / kUpsampleWarps, words * kWordInstructions / 32 / kUpsampleWarps});
    }
    // Sums of a tile are added to those before, which stay in L2.
    const double of_l2 = t.wants_dw ? taps_of(s_) * t.o_padded * t.c_padded * t.shares * 2.0 * std::max(element_, 4) *
                                          gpu_.multiprocessors * gpu_.clock / gpu_.l2
                                    : 0;
    const double of_memory = bytes_of(plan_) / double(t.tiles) * gpu_.multiprocessors * gpu_.clock / gpu_.memory;
    const double busy = std::max({products, shared, instructions / kIssue, of_memory, of_l2});
    const double rounds = std::ceil(double(ceil_div(t.tiles, gpu_.multiprocessors)) / resident);
    const double clocks = rounds * std::max(resident * busy, alone);
    return clocks / gpu_.clock + gpu_.launch * (plan_.backward && plan_.wanted.sums() ? 2 : 1);
  }

  UpsamplePlan& plan_;
  const UpsampleSizes& s_;
  const Gpu& gpu_;
  const int element_, of_piece_;
  const bool on_tensor_cores_;
  UpsampleTile base_ = {};
};

// The kernels without tiles.
void plan_directly(UpsamplePlan& plan, const Gpu& gpu) {
  const UpsampleSizes& s = plan.sizes;
  UpsampleDirect& d = plan.direct;
  d.n = int(s.n), d.c = int(s.c), d.o = int(s.o), d.h = int(s.h), d.w = int(s.w), d.yh = int(s.yh), d.yw = int(s.yw),
  d.k = int(s.k);
  d.wants_dx = plan.wanted.x, d.wants_sums = plan.wanted.sums();
  const size_t sum = plan.math == Math::kDouble ? 8 : 4;
  const int64_t of_part = s.k * s.k * s.c * (s.by_itself ? 1 : s.o) * int64_t(sum);
  d.strip = kStripRows;
  // Each channel by itself, threads have two columns of a strip.
  int64_t rows =
      s.by_itself ? kStripRows * std::max<int64_t>(1, 2 * kStripThreads / s.w) : std::max<int64_t>(1, kDirectPixels / s.w);
  while (rows < s.h && s.n * ceil_div(s.h, rows) * of_part > kDirectBytes) rows *= 2;
  rows = std::min(rows, s.h);
  d.part_rows = int(rows), d.parts = s.n * ceil_div(s.h, rows);
  const double channels = s.by_itself ? 1 : double(s.c), pairs = pixels_of(s) * double(s.o) * channels;
  const double of_direct = plan.backward ? plan.wanted.x * kDirectGradient + plan.wanted.sums() * kDirectSums : kDirectForward;
  const double of_single = plan.backward ? kSingleBackward : kSingleForward + (s.add ? kSingleAdd : 0);
  const double instructions = pairs / 32 * (s.by_itself ? of_single : of_direct);
  plan.seconds = std::max(instructions / kIssue / gpu.multiprocessors / gpu.clock, bytes_of(plan) / gpu.memory) +
                 gpu.launch * (plan.backward && plan.wanted.sums() ? 2 : 1);
  if (!plan.backward) return;
  plan.bias_at = plan.wanted.w ? whole(size_t(d.parts) * size_t(of_part)) : 0;
  plan.workspace_bytes = plan.bias_at + (plan.wanted.b ? size_t(d.parts * s.o) * sum : 0);
}

UpsamplePlan plan_upsample(const UpsampleSizes& sizes, Math math, bool backward, const UpsampleWanted& wanted, const Gpu& gpu) {
  UpsamplePlan plan = {};
  plan.sizes = sizes, plan.math = math, plan.backward = backward, plan.wanted = wanted;
  plan.floor = floor_of(plan, gpu);
  if (sizes.by_itself) {
    plan.why_direct = "each channel by itself";
  } else if (!Planner(plan, gpu).find()) {
    plan.why_direct = "no tile of so many channels fits in shared memory";
  }
  if (!plan.why_direct.empty()) {
    plan_directly(plan, gpu);
  } else if (backward && wanted.sums()) {
    const UpsampleTile& t = plan.tile;
    const size_t sum = math == Math::kDouble ? 8 : 4, blocks = size_t(plan.blocks);
    const size_t sums = blocks * size_t(t.shares) * size_t(sizes.k * sizes.k) * size_t(t.o_padded) * size_t(t.c_padded);
    plan.bias_at = wanted.w ? whole(sums * sum) : 0;
    plan.workspace_bytes = plan.bias_at + (wanted.b ? blocks * size_t(t.o_padded) * sum : 0);
  }
  return plan;
}

}  // namespace

UpsamplePlan plan_upsample_forward(const UpsampleSizes& sizes, Math math, const Gpu& gpu) {
  return plan_upsample(sizes, math, false, {}, gpu);
}

UpsamplePlan plan_upsample_backward(const UpsampleSizes& sizes, Math math, const UpsampleWanted& wanted, const Gpu& gpu) {
  return plan_upsample(sizes, math, true, wanted, gpu);
}

}  // namespace gcn::cuda
