// Plans as JSON, for people: gcn_kernels.info.plan().
#include <sstream>
#include <type_traits>

#include "plan.h"
#include "tiles.h"

namespace gcn::cuda {
namespace {

// Writes `"name": value` pairs with commas between them.
class Object {
 public:
  explicit Object(std::ostream& out) : out_(out) { out_ << '{'; }
  ~Object() { out_ << '}'; }

  template <class T>
  Object& operator()(const char* name, const T& value) {
    key(name);
    if constexpr (std::is_same_v<T, bool>) {
      out_ << (value ? "true" : "false");
    } else if constexpr (std::is_arithmetic_v<T>) {
      out_ << value;
    } else {
      out_ << '"' << value << '"';  // names and reasons of our own, without quotes
    }
    return *this;
  }
  std::ostream& key(const char* name) {
    out_ << (empty_ ? "" : ", ") << '"' << name << "\": ";
    empty_ = false;
    return out_;
  }

 private:
  std::ostream& out_;
  bool empty_ = true;
};

constexpr double kMicroseconds = 1e6;

void launches(std::ostream& out, const Plan& plan) {
  out << '[';
  const char* separator = "";
  for (const LaunchNote& l : plan.launches) {
    out << separator;
    separator = ", ";
    Object{out}("kernel", l.kernel)("blocks", l.blocks)("threads", l.threads)("shared_bytes", l.shared_bytes)(
        "blocks_per_multiprocessor", l.blocks_per_multiprocessor)("waves", l.waves)("gflop", l.flops / 1e9)(
        "mbytes", l.bytes / 1e6)("predicted_us", l.seconds * kMicroseconds);
  }
  out << ']';
}

void common(Object& object, const Plan& plan) {
  object("tensor_cores", plan.tensor_cores);
  if (!plan.tensor_cores) object("why_direct", plan.why_direct);
  if (!plan.hopper.why_portable.empty()) object("why_portable", plan.hopper.why_portable);
  if (!plan.hopper.measured_sources.empty()) object("measured_sources", plan.hopper.measured_sources);
  object("workspace_bytes", plan.workspace_bytes)("floor_us", plan.floor * kMicroseconds)("predicted_us",
                                                                                          plan.predicted() * kMicroseconds);
  launches(object.key("launches"), plan);
}

const char* name(LineOrder order) {
  switch (order) {
    case LineOrder::kOutputs:
      return "channels of each pixel";
    case LineOrder::kPixels:
      return "pixels of each channel";
    case LineOrder::kRows:
      return "rows of pixels";
  }
  return "";
}

void line_conv(std::ostream& out, const LineConvPlan& l) {
  Object{out}("tile", line_tile(l.tile).name)("tile_h", l.tile_h)("tile_w", l.tile_w)("phases", l.phases)("chunk", l.chunk)(
      "k_blocks", l.k_blocks)("output_tiles", l.n_tiles)("stores", name(l.order))("vector_stores", l.vector);
}

void weight_grad(std::ostream& out, const WeightGradPlan& g) {
  Object{out}("columns", 8 * g.column_blocks)("patch_h", g.patch_h)("patch_w", g.patch_w)("splits", g.splits)(
      "groups", g.branch[0].groups + g.branch[1].groups);
}

void source(Object& object, const SourcePlan& s) {
  object("x", s.planes          ? "copied into channels_last, 16 bytes at a time"
              : s.packed        ? "copied into channels_last"
              : s.channels_last ? "read as channels_last"
                                : "read as NCHW");
}

}  // namespace

std::string describe(const ForwardPlan& plan) {
  std::ostringstream out;
  {
    Object object(out);
    common(object, plan);
    if (plan.tensor_cores) {
      const FirstStagePlan& f = plan.first;
      if (!plan.why_packed.empty()) object("why_packed", plan.why_packed);
      source(object, plan.source);
      Object{object.key("first_stage")}("columns", 8 * f.column_blocks)("tiles", f.tiles)("splits", f.splits)(
          "groups", f.branch[0].groups + f.branch[1].groups)("overhang_l", f.branch[0].overhang)(
          "overhang_r", f.branch[1].overhang)("combine", !plan.tickets && !(f.branch[0].complete && f.branch[1].complete));
      line_conv(object.key("second_stage"), plan.second);
    }
  }
  return out.str();
}

std::string describe(const BackwardPlan& plan) {
  std::ostringstream out;
  {
    Object object(out);
    common(object, plan);
    if (plan.tensor_cores) {
      if (plan.wanted.first_stage()) line_conv(object.key("du"), plan.du[0]);
      if (plan.wanted.x) line_conv(object.key("dx"), plan.dx);
      if (plan.first.splits) {
        source(object, plan.source);
        weight_grad(object.key("first_weight_grad"), plan.first);
      }
      if (plan.second.splits) weight_grad(object.key("second_weight_grad"), plan.second);
    }
  }
  return out.str();
}

}  // namespace gcn::cuda
