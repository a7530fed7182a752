#include "strips_layout.h"

#include <algorithm>

namespace gcn::cuda {
namespace {

using gcn::strips::Buffer, gcn::strips::Dot, gcn::strips::Kernel, gcn::strips::kNone, gcn::strips::Program, gcn::strips::Step;

constexpr int64_t kBanks = 32;
constexpr int64_t kMostElements = 1 << 17;  // of a map; more than any shared memory has

int64_t round_up(int64_t n) { return (n + kStripsGroup - 1) / kStripsGroup * kStripsGroup; }

StripsOp op_of(StripsKind kind, int src, int dst, int kernel = 0) {
  StripsOp op = {};
  op.kind = kind;
  op.src = static_cast<signed char>(src), op.dst = static_cast<signed char>(dst), op.kernel = static_cast<signed char>(kernel);
  return op;
}

// How far every map reaches beyond the core: whole groups of columns, and of rows if they are rounded as well.
std::vector<Buffer> reaches(const Program& p, const StripsCore& core, bool rounded) {
  const auto round_rows = [&](int64_t n) { return rounded ? round_up(n) : n; };
  std::vector<Buffer> b = p.buffers;
  for (Buffer& buffer : b) buffer.rh = buffer.rw = 0;
  const auto need = [&](int buffer, int64_t rh, int64_t rw) {
    b[buffer].rh = std::max(b[buffer].rh, rh);
    b[buffer].rw = std::max(b[buffer].rw, rw);
  };
  for (const Dot& dot : p.dots) {
    if (dot.weight) need(dot.x, p.kernels[dot.kernel].reach_h(), p.kernels[dot.kernel].reach_w());
  }
  // All steps that write a map come after all that read it in this order, so its reach is known by then.
  for (auto step = p.steps.rbegin(); step != p.steps.rend(); ++step) {
    const Kernel& k = p.kernels[step->kernel];
    const int64_t rh = core.covers_h ? 0 : round_rows(b[step->dst].rh), rw = core.covers_w ? 0 : round_up(b[step->dst].rw);
    need(step->src, rh + k.reach_h(), rw + k.reach_w());
    if (step->addend != kNone && step->addend != step->dst) need(step->addend, rh, rw);
  }
  for (Buffer& buffer : b) buffer.rh = round_rows(buffer.rh), buffer.rw = round_up(buffer.rw);
  return b;
}

// What is done with maps, each after what it depends on, so that little is in shared memory at a time.
class Schedule {
 public:
  Schedule(const Program& p, const std::vector<StripsMap>& maps) : maps_(maps), live_(maps.size()), at_(maps.size()) {
    writes_left_.resize(maps.size());
    readers_left_.resize(maps.size());
    for (size_t i = 0; i < p.buffers.size(); ++i) {
      if (p.buffers[i].image == kNone || p.buffers[i].result) continue;
      add(op_of(StripsKind::kLoad, p.buffers[i].image, int(i)), {}, int(i));
    }
    for (const Step& s : p.steps) {
      StripsOp op = op_of(StripsKind::kConv, s.src, s.dst, s.kernel);
      const bool itself = s.addend == s.dst;
      op.addend = s.addend == kNone ? StripsAddend::kNone : itself ? StripsAddend::kItself : StripsAddend::kMap;
      op.flipped = s.flipped;
      std::vector<int> reads = {s.src};
      if (op.addend == StripsAddend::kMap) op.addend_map = static_cast<signed char>(s.addend), reads.push_back(s.addend);
      add(op, reads, s.dst);
    }
    for (const Dot& d : p.dots) {
      StripsOp op = op_of(StripsKind::kDot, d.weight ? d.x : d.g, d.g, d.kernel);
      op.weight = d.weight, op.bias = d.bias;
      add(op, d.weight ? std::vector<int>{d.x, d.g} : std::vector<int>{d.g}, kNone);
    }
    for (size_t i = 0; i < p.buffers.size(); ++i) {
      if (!p.buffers[i].result) continue;
      add(op_of(StripsKind::kStore, int(i), p.buffers[i].image), {int(i)}, kNone);
    }
  }

  // The operations in order, and the place of every map.
  std::vector<StripsOp> run() {
    std::vector<StripsOp> ops;
    std::vector<bool> done(nodes_.size());
    while (ops.size() < nodes_.size()) {
      size_t best = nodes_.size();
      for (size_t i = 0; i < nodes_.size(); ++i) {
        if (!done[i] && is_ready(i, done) && (best == nodes_.size() || growth(nodes_[i]) < growth(nodes_[best]))) best = i;
      }
      carry_out(nodes_[best]);
      done[best] = true;
      ops.push_back(nodes_[best].op);
    }
    return ops;
  }
  int64_t at(size_t map) const { return at_[map]; }
  int64_t elements() const { return elements_; }

 private:
  struct Node {
    StripsOp op;
    std::vector<int> reads;
    int writes;
  };

  void add(const StripsOp& op, const std::vector<int>& reads, int writes) {
    nodes_.push_back({op, reads, writes});
    for (const int map : reads) ++readers_left_[map];
    if (writes != kNone) ++writes_left_[writes];
  }

  // Sums into one map are made in the program's order.
  bool is_ready(size_t node, const std::vector<bool>& done) const {
    for (const int map : nodes_[node].reads)
      if (writes_left_[map] > 0) return false;
    for (size_t i = 0; i < node; ++i)
      if (!done[i] && nodes_[i].writes != kNone && nodes_[i].writes == nodes_[node].writes) return false;
    return true;
  }

  int64_t growth(const Node& node) const {
    int64_t elements = 0;
    if (node.writes != kNone && !live_[node.writes]) elements += maps_[node.writes].plane;
    for (const int map : node.reads)
      if (readers_left_[map] == 1) elements -= maps_[map].plane;
    return elements;
  }

  void carry_out(const Node& node) {
    if (node.writes != kNone) {
      --writes_left_[node.writes];
      if (!live_[node.writes]) place(node.writes);
    }
    for (const int map : node.reads)
      if (--readers_left_[map] == 0) live_[map] = false;
  }

  // At the first gap between the maps there are.
  void place(int map) {
    std::vector<int> others;
    for (size_t i = 0; i < live_.size(); ++i)
      if (live_[i]) others.push_back(int(i));
    std::sort(others.begin(), others.end(), [&](int a, int b) { return at_[a] < at_[b]; });
    int64_t first = 0;
    for (const int other : others) {
      if (first + maps_[map].plane <= at_[other]) break;
      first = at_[other] + maps_[other].plane;
    }
    at_[map] = first, live_[map] = true;
    elements_ = std::max(elements_, first + maps_[map].plane);
  }

  const std::vector<StripsMap>& maps_;
  std::vector<Node> nodes_;
  std::vector<bool> live_;
  std::vector<int64_t> at_;
  std::vector<int> writes_left_, readers_left_;
  int64_t elements_ = 0;
};

}  // namespace

bool fits_kernel(const Program& p) {
  size_t images = 0;
  for (const Buffer& b : p.buffers) images += b.image != kNone;
  return p.buffers.size() <= kStripsMostMaps && p.steps.size() + p.dots.size() + images <= kStripsMostOps &&
         p.kernels.size() <= kStripsMostKernels;
}

namespace {

StripsLayout lay_out(const Program& p, const StripsCore& core, int element, bool rounded, bool& fits) {
  const bool halves = element == 2;
  StripsLayout layout;
  fits = true;
  for (const Buffer& b : reaches(p, core, rounded)) {
    const int64_t rows = core.h + 2 * b.rh, cols = core.w + 2 * b.rw;
    // An odd number of pieces of 16 bytes: those of neighbouring rows then lie in different banks.
    const int64_t pitch = halves ? (cols / kStripsGroup | 1) * kStripsGroup : cols + 4;
    if (b.rh > kMostElements || b.rw > kMostElements || rows * pitch > kMostElements) {
      fits = false;
      return layout;
    }
    // So that eight channels of four neighbouring pixels lie in different banks.
    const int64_t banks = halves ? 2 * kBanks : kBanks;
    const int64_t plane = (rows * pitch + banks - 1) / banks * banks + (halves ? kStripsGroup : 4);
    layout.maps.push_back({0, int(plane), int(pitch), short(rows), short(cols), short(b.rh), short(b.rw)});
  }
  Schedule schedule(p, layout.maps);
  layout.ops = schedule.run();
  for (size_t i = 0; i < layout.maps.size(); ++i) layout.maps[i].first = int(schedule.at(i));
  layout.elements = schedule.elements();
  return layout;
}

}  // namespace

StripsLayout lay_out(const Program& p, const StripsCore& core, bool banded, int element, bool& fits) {
  const StripsLayout rounded = lay_out(p, core, element, true, fits);
  if (!banded) return rounded;
  // Products on the tensor cores need no whole groups of rows; but maps of the same size fit better into each other's places.
  bool exact_fits = false;
  const StripsLayout exact = lay_out(p, core, element, false, exact_fits);
  if (!exact_fits || (fits && rounded.elements <= exact.elements)) return rounded;
  fits = true;
  return exact;
}

}  // namespace gcn::cuda
