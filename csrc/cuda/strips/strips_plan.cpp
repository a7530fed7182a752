#include "strips_plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "strips_layout.h"

namespace gcn::cuda {
namespace {

using gcn::strips::Buffer, gcn::strips::Dot, gcn::strips::Kernel, gcn::strips::kNone, gcn::strips::Program;

constexpr int kCores[] = {8, 16, 24, 32, 48, 64, 96, 128};  // of a tile, beside all of an image
constexpr int kMostChannels = 32, kThreadCounts[] = {128, 256, 384, 768};
constexpr int kReservedShared = 1024;

// Estimates. Instructions of a thread as they stand in the machine code for sm_90: of a task beside its taps, of an input of a
// column (with its address), of a quad of an image on its way in or out, of an operation before its tasks.
constexpr double kTaskInstructions = 95, kInputInstructions = 2, kQuadInstructions = 34, kElementInstructions = 26;
constexpr double kOpInstructions = 70, kLineInstructions = 100, kTapInstructions = 10.5, kDilatedTapInstructions = 22;
constexpr double kPieceInstructions = 47, kChunkInstructions = 115, kSumInstructions = 80, kTapSumInstructions = 7;
// Instructions a clock and multiprocessor, and the warps that reach half of them (the kernels before these issued about two a
// clock on an H200, with 16 warps; these have not been timed); clocks that a warp alone takes for one; clocks
// that a block waits for device memory, and at a barrier; bytes of device memory that are moved at once.
constexpr double kIssue = 4, kHalfWarps = 16, kAloneClocks = 2.5, kLoadWait = 1500, kStepWait = 100, kBytesAtOnce = 32;
// On the tensor cores (strips_banded.cuh), of a warp: of a task of a convolution beside what follows; of a row of the kernel, a
// fragment of its map, and a register of its band; of 16 x 8 outputs, and of what is added to them (as they stand in the machine
// code for sm_90); of 16 x 16 pixels of a dot, and of its sums; of 16 bytes moved (counted in the source). No GPU has run them.
constexpr double kBandTask = 106, kBandTile = 40, kBandLine = 5, kBandStep = 11, kBandFragment = 4, kBandRegister = 2,
                 kBandBlock = 14, kBandAddend = 12;
constexpr double kGramPlace = 50, kGramPair = 9, kGramTask = 250, kOctetInstructions = 43;
// In tf32, beside these: of a fragment that is rounded; of one whose 32-bit numbers are read one by one.
constexpr double kRoundFragment = 5.5, kWordsFragment = 9;
constexpr double kFragmentClocks = 4;  // of shared memory, 512 bytes
constexpr double kSharedUse = 0.9;     // of 128 bytes a clock and multiprocessor

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int round_up(int64_t n) { return int(ceil_div(n, kStripsGroup) * kStripsGroup); }

// As strips_banded.cuh has them.
struct BandAxes {
  bool down;
  int64_t lines, taps, reach, length;
  int64_t piece;  // elements of 16 bytes

  BandAxes(const Kernel& k, Math math) : down(k.kw == 1 && k.kh > 1), piece(kPieceBytes / element_bytes(math)) {
    const int64_t dilation = down ? k.dh : k.dw;
    lines = down ? 1 : k.kh, taps = down ? k.kh : k.kw;
    reach = dilation * (taps / 2), length = dilation * (taps - 1) + 1;
  }
  // Of 8 inputs, for so many outputs; windows begin at multiples of `whole`.
  int64_t eights(int64_t outputs, int64_t whole) const {
    return ceil_div((down ? 0 : -reach & (whole - 1)) + length + outputs - 1, 8);
  }
  int64_t of_gram() const { return eights(16, 8); }
  int64_t passes() const { return ceil_div(of_gram(), kStripsGramBlocks); }
};

// A warp's outputs of a convolution: 16 rows times 8 `blocks` columns, and `run` of these one below the other. So many that all
// warps have their share; the fewer runs, the less there is beside products.
struct BandTiles {
  int64_t blocks, across, down, run, runs;

  BandTiles(const StripsMap& m, const StripsCore& core, int64_t channels, int64_t threads) {
    const int64_t rows = core.covers_h ? core.h : m.rows, cols = core.covers_w ? core.w : m.cols;
    blocks = cols > 16 ? 4 : 2, across = ceil_div(cols, 8 * blocks), down = ceil_div(rows, 16);
    const int64_t share = std::clamp<int64_t>(ceil_div(across * down * channels, threads / 32), 1, down);
    run = ceil_div(down, ceil_div(down, share)), runs = ceil_div(down, run);
  }
};

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

Places place(const Program& p, Math math, const StripsLayout& layout, const StripsCore& core, bool banded, int channels,
             int threads, int64_t most_splits) {
  Places found;
  found.ops = layout.ops;
  for (StripsOp& op : found.ops) {
    if (op.kind != StripsKind::kConv && op.kind != StripsKind::kDot) continue;
    const Axes axes(p.kernels[op.kernel]);
    const BandAxes bands(p.kernels[op.kernel], math);
    if (op.kind == StripsKind::kConv) {
      op.weights = found.weight_plane;
      op.band = banded ? strips_band_words(bands.length) : 0;
      if (banded) op.run = short(BandTiles(layout.maps[op.dst], core, channels, threads).run);
      found.weight_plane += int(banded ? bands.lines * op.band : axes.lines * axes.padded) + kStripsGroup;
      continue;
    }
    op.sums = found.sums;
    found.sums += int(op.weight ? axes.lines * axes.taps : 0) + op.bias;
    const int64_t area = int64_t(core.h) * core.w, warps = threads / 32;
    int64_t items = channels * (op.weight ? axes.lines : 1), padded = op.weight ? axes.padded : kStripsGroup;
    int64_t most = area / (2 * kStripsGroup) / 32;
    if (banded) {
      items = channels * (op.weight ? bands.lines * bands.passes() : 1), padded = 8 * kStripsGramSums;
      most = std::min(area / 256, most_splits);
    }
    const int64_t shares = banded ? warps / items : ceil_div(warps, items);
    op.splits = static_cast<signed char>(std::clamp<int64_t>(shares, 1, std::max<int64_t>(1, most)));
    found.scratch = std::max(found.scratch, items * op.splits * padded);
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
    const bool has_bands = math_ == Math::kHalf || math_ == Math::kBFloat16 || math_ == Math::kTf32;
    if (has_bands && gpu_.overrides.strips_banded != 1) find(true, plan, best);
    const bool found = best < std::numeric_limits<double>::infinity();
    if (!found || gpu_.overrides.strips_banded != 2) find(false, plan, best);
    return best < std::numeric_limits<double>::infinity();
  }

 private:
  void find(bool banded, StripsPlan& plan, double& best) {
    for (const int h : cores(s_.h)) {
      for (const int w : cores(s_.w)) {
        const StripsCore core{h, w, h >= s_.h, w >= s_.w};
        bool fits = false;
        const StripsLayout layout = lay_out(p_, core, banded, int(element_of_map(banded)), fits);
        if (!fits) continue;
        for (int channels = 1; channels <= kMostChannels && (channels == 1 || channels / 2 < s_.c); channels *= 2) {
          for (const int threads : kThreadCounts) {
            if (threads <= most_threads(banded)) consider(core, layout, banded, channels, threads, plan, best);
          }
        }
      }
    }
  }

  static std::vector<int> cores(int64_t size) {
    std::vector<int> found;
    for (const int core : kCores)
      if (core < size) found.push_back(core);
    if (size <= 1024) found.push_back(round_up(size));
    return found;
  }

  int64_t accumulator_bytes() const { return math_ == Math::kDouble ? 8 : 4; }
  int64_t element_of_map(bool banded) const { return banded ? element_bytes(math_) : accumulator_bytes(); }
  int most_threads(bool banded) const {
    const size_t element = size_t(element_bytes(math_));
    return banded ? strips_banded_threads(element) : strips_most_threads(element);
  }
  bool in_halves() const { return element_bytes(math_) == 2; }

  // Fewer shares of a dot's pixels are fewer sums to make of them, and fewer warps at work.
  void consider(const StripsCore& core, const StripsLayout& layout, bool banded, int channels, int threads, StripsPlan& plan,
                double& best) {
    for (const int64_t most : {16, 4, 2, 1}) {
      if (most == 16 || (banded && !p_.dots.empty())) consider(core, layout, banded, channels, threads, most, plan, best);
    }
  }

  void consider(const StripsCore& core, const StripsLayout& layout, bool banded, int channels, int threads, int64_t most_splits,
                StripsPlan& plan, double& best) {
    const Places places = place(p_, math_, layout, core, banded, channels, threads, most_splits);
    const int64_t accumulator = accumulator_bytes(), element = element_of_map(banded);
    // Front, weights and scratch in accumulators, and the maps between them in elements.
    const int64_t weights = (kStripsFront + int64_t(channels) * places.weight_plane) * accumulator;
    const int64_t scratch = weights + channels * layout.elements * element, bytes = scratch + places.scratch * accumulator;
    if (bytes > gpu_.shared_per_block) return;
    StripsTile t = {};
    t.tile_h = core.h, t.tile_w = core.w;
    t.tiles_h = int(ceil_div(s_.h, core.h)), t.tiles_w = int(ceil_div(s_.w, core.w));
    t.channels = channels, t.groups = int(ceil_div(s_.c, channels));
    const int64_t units = s_.n * t.groups * t.tiles_h * t.tiles_w;
    const int64_t by_shared = gpu_.shared_per_multiprocessor / (bytes + kReservedShared);
    const int64_t by_registers = most_threads(banded) / threads;
    const int resident = int(std::max<int64_t>(1, std::min(by_shared, by_registers)));
    const Prediction predicted = predict(core, layout, places, banded, channels, units, threads, resident);
    if (predicted.seconds >= best) return;
    best = predicted.seconds;
    t.n = int(s_.n), t.c = int(s_.c), t.h = int(s_.h), t.w = int(s_.w);
    t.channels_first = channels_first_;
    t.weight_plane = places.weight_plane, t.sums = places.sums;
    for (size_t i = 0; i < layout.maps.size(); ++i) {
      t.map[i] = layout.maps[i];
      t.map[i].first = int(weights / element) + channels * layout.maps[i].first;
    }
    t.scratch = int(scratch / accumulator);
    t.ops = int(places.ops.size());
    std::copy(places.ops.begin(), places.ops.end(), t.op);
    plan.banded = banded, plan.tile = t, plan.units = units, plan.threads = threads, plan.shared_bytes = int(bytes),
    plan.resident = resident;
    plan.seconds = predicted.seconds, plan.bound = predicted.bound;
  }

  // What the threads of a block do between two barriers: tasks of so many instructions, and clocks of shared memory and of the
  // tensor cores of 32 of them.
  struct Work {
    double tasks = 0, instructions = 0, shared = 0, tensor = 0;
  };

  Work work_of_image(const StripsMap& m, double elements, bool banded, int channels) const {
    const int64_t inner = channels_first_ ? std::min<int64_t>(channels, s_.c) : s_.w;
    const double border = double(m.rows) * m.cols - elements;
    if (banded && in_halves() && inner % kStripsGroup == 0) {
      const double tasks = elements / kStripsGroup, scattered = channels_first_ ? 2 * kStripsGroup : 0;
      return {tasks, kOctetInstructions + scattered + border / kStripsGroup / tasks, channels_first_ ? 2.0 * kStripsGroup : 4.0};
    }
    const bool quads = (channels_first_ ? s_.c : s_.w) % kStripsQuad == 0;
    const double tasks = elements / (quads ? kStripsQuad : 1);
    return {tasks, (quads ? kQuadInstructions : kElementInstructions) + border / tasks, double(quads ? kStripsQuad : 1)};
  }

  Work work_of_conv(const StripsOp& op, const Axes& axes, const StripsMap& m, const StripsCore& core, int channels) const {
    const double rows = core.covers_h ? core.h : m.rows, cols = core.covers_w ? core.w : m.cols;
    const bool down = p_.kernels[op.kernel].along_h(), added = op.addend != StripsAddend::kNone;
    const bool known = axes.dilation == 1 && strips_known(int(axes.taps)) && math_ != Math::kDouble &&
                       int(down ? rows : cols) % (2 * kStripsGroup) == 0;
    const bool many = known && down && axes.taps <= kStripsTapsOfMany && int(rows) % (4 * kStripsGroup) == 0;
    const double outputs = (many ? 4 : known ? 2 : 1) * kStripsGroup, inputs = outputs + double(axes.taps) - 1;
    const double moves = (1 + added) * outputs;  // of the outputs, and of what is added to them
    Work work;
    work.tasks = rows * cols * channels / outputs;
    work.instructions = kTaskInstructions + moves * (down ? 1.5 : 1.0 / kStripsQuad);
    work.instructions +=
        known ? double(axes.lines) * (outputs * axes.taps + inputs * (down ? kInputInstructions : 0.25) + 8)
              : double(axes.lines) *
                    (kLineInstructions + axes.taps * (axes.dilation == 1 ? kTapInstructions : kDilatedTapInstructions));
    const double reads = axes.dilation == 1 ? inputs : outputs * axes.taps;
    work.shared = moves + double(axes.lines) * (reads + axes.taps / 4.0);
    return work;
  }

  // The same on the tensor cores; a task is a thread's part in that of a warp.
  Work work_of_band(const StripsOp& op, const StripsMap& m, const StripsCore& core, int channels, int threads) const {
    const BandAxes axes(p_.kernels[op.kernel], math_);
    const BandTiles tiles(m, core, channels, threads);
    const int64_t blocks = tiles.blocks, eights = axes.eights(axes.down ? 16 : 8, axes.piece);
    const bool added = op.addend != StripsAddend::kNone;
    // A product is 16 deep, of tf32 8; so is a fragment.
    const int64_t depth = 2 * axes.piece, steps = ceil_div(eights * 8, depth);
    const int64_t fragments = axes.down ? steps * blocks / 2 : axes.lines * ceil_div((blocks - 1) * 8 + eights * 8, depth);
    const int64_t bands = axes.down ? steps * (in_halves() ? 3 : 4) : axes.lines * eights * 8 / axes.piece;
    // Of 8 in depth; down a column the last one is 16 deep in any case, along a row it may be half as deep.
    const double products = double(axes.lines * blocks) * double(axes.down ? steps * depth / 8 : eights);
    const double added_to = double(blocks) * (kBandBlock + added * kBandAddend);
    const double halves = !axes.down && eights % 2 && in_halves() ? double(axes.lines * blocks) / 2 : 0;
    double of_tile = kBandTile + (axes.down ? kBandStep * double(steps) : kBandLine * double(axes.lines)) +
                     double(fragments) * kBandFragment + double(bands) * kBandRegister + products * 8 / double(depth) + halves +
                     added_to;
    if (!in_halves()) of_tile += double(fragments) * (kRoundFragment + (axes.down ? kWordsFragment : 0));
    const double count = double(tiles.run), each = in_halves() || axes.down ? 2 : 4;  // clocks of shared memory for a block
    Work work;
    work.tasks = 32.0 * double(tiles.runs * tiles.across * channels);
    work.instructions = kBandTask + count * of_tile;
    work.shared = count * (double(fragments) * kFragmentClocks + double(bands) + each * double(blocks) * (1 + added));
    work.tensor = count * products * 8 * 16 * 8 / products_a_clock();
    return work;
  }

  Work work_of_gram(const StripsOp& op, double rows, double cols, int channels) const {
    const BandAxes axes(p_.kernels[op.kernel], math_);
    const double depth = 2.0 * double(axes.piece);
    const double places = std::ceil((axes.down ? rows : cols) / 16) * std::ceil((axes.down ? cols : rows) / depth) / op.splits;
    const double blocks = op.weight ? double(axes.of_gram()) / double(axes.passes()) : 0;
    const double pairs = std::ceil(blocks / 2);
    Work work;
    work.tasks = 32.0 * channels * double(op.weight ? axes.lines * axes.passes() : 1) * op.splits;
    work.instructions = kGramTask + places * (kGramPlace + pairs * kGramPair);
    if (!in_halves()) work.instructions += places * (1 + pairs) * (kRoundFragment + (axes.down ? 0 : kWordsFragment));
    work.shared = places * kFragmentClocks * (1 + pairs) + 4.0 * kStripsGramBlocks + 16;
    work.tensor = places * (2 * pairs + (in_halves() ? 1 : 6) * op.bias) * 16 * depth * 8 / products_a_clock();
    return work;
  }

  double products_a_clock() const { return gpu_.fma_16bit / (in_halves() ? 1 : 2); }

  Work work_of_dot(const StripsOp& op, const Axes& axes, double area, int channels) const {
    const bool down = p_.kernels[op.kernel].along_h();
    const bool known = op.weight && axes.dilation == 1 && strips_known(int(axes.taps)) && math_ != Math::kDouble &&
                       (down ? s_.h : s_.w) % (2 * kStripsGroup) == 0;
    const double chunks = op.weight ? double(axes.padded) / kStripsGroup : 1;
    const double pixels = (known && axes.taps <= kStripsTapsOfMany ? 2 : 1) * kStripsGroup, pieces = area / pixels;
    const double items = double(channels) * (op.weight ? axes.lines : 1) * (known ? 1 : chunks);
    const double of_sums = (kSumInstructions + (known ? kTapSumInstructions * axes.taps : 0)) * op.splits * 32 / pieces;
    const double of_piece =
        known ? kPieceInstructions + axes.taps * (pixels + (down ? 2.0 : 0.25)) + (down ? 50 : 0) : kChunkInstructions;
    const double reads = known ? 2 * pixels + double(axes.taps) : 3 * pixels;
    return {items * pieces, of_piece + of_sums, reads};
  }

  struct Prediction {
    double seconds;
    const char* bound;
  };

  // Of the whole launch: the busiest of instructions, tensor cores, shared and device memory; or what a block takes alone, where
  // too few share a multiprocessor to hide that it waits.
  Prediction predict(const StripsCore& core, const StripsLayout& layout, const Places& places, bool banded, int channels,
                     int64_t units, int threads, int resident) const {
    const double element = element_bytes(math_), warps = threads / 32;
    // Less than a sector of device memory at a time is read once more for each, and written as if it were twice as much.
    const double parts = channels_first_ ? std::max(1.0, kBytesAtOnce / (channels * element)) : 1.0;
    const double of_h = double(std::min<int64_t>(core.h, s_.h)), of_w = double(std::min<int64_t>(core.w, s_.w));
    double instructions = 0, shared = 0, tensor = 0, bytes = 0, alone = 0;
    const double area = of_h * of_w;
    for (const StripsOp& op : places.ops) {
      Work work;
      double wait = kStepWait;
      if (op.kind == StripsKind::kLoad) {
        const StripsMap& m = layout.maps[op.dst];
        const double elements = double(std::min<int64_t>(m.rows, s_.h)) * double(std::min<int64_t>(m.cols, s_.w));
        work = work_of_image(m, elements, banded, channels);
        work.tasks *= channels, wait += kLoadWait;
        bytes += elements * channels * element * parts;
      } else if (op.kind == StripsKind::kStore) {
        work = work_of_image(layout.maps[op.src], area, banded, channels);
        work.tasks *= channels;
        bytes += area * channels * element * (parts > 1 ? 2 * parts : 1);
      } else if (op.kind == StripsKind::kConv) {
        const StripsMap& m = layout.maps[op.dst];
        work = banded ? work_of_band(op, m, core, channels, threads)
                      : work_of_conv(op, Axes(p_.kernels[op.kernel]), m, core, channels);
      } else if (banded) {
        work = work_of_gram(op, of_h, of_w, channels);
      } else {
        work = work_of_dot(op, Axes(p_.kernels[op.kernel]), area, channels);
      }
      instructions += work.tasks / 32 * work.instructions + warps * kOpInstructions;
      shared += work.tasks / 32 * work.shared, tensor += work.tasks / 32 * work.tensor;
      const double rounds = std::ceil(work.tasks / threads);
      alone += wait + (rounds * work.instructions + kOpInstructions) * std::max(kAloneClocks, warps / kIssue);
    }
    const double issue = instructions / kIssue * (1 + kHalfWarps / (resident * warps));
    const double of_memory = bytes * gpu_.multiprocessors * gpu_.clock / gpu_.memory;
    const std::pair<double, const char*> shares[] = {
        {issue, "instructions"}, {shared / kSharedUse, "shared memory"}, {tensor, "tensor cores"}, {of_memory, "device memory"}};
    const auto [busy, bound] = *std::max_element(std::begin(shares), std::end(shares));
    alone += of_memory;  // nothing else goes on in the block
    const int64_t at_once = int64_t(gpu_.multiprocessors) * resident, waves = units / at_once, left = units % at_once;
    const double of_wave = std::max(resident * busy, alone);
    const double of_rest = left ? std::max(double(ceil_div(left, gpu_.multiprocessors)) * busy, alone) : 0;
    return {(double(waves) * of_wave + of_rest) / gpu_.clock, of_wave > resident * busy ? "waiting" : bound};
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
  double bytes = 0;
  for (const Buffer& b : program.buffers) bytes += b.image == kNone ? 0 : element_bytes(math);
  plan.floor = bytes * double(sizes.n * sizes.c * sizes.h * sizes.w) / gpu.memory;
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
