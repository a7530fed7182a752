// Python's way to the whole operator in the emulator: plans as the package does, and runs the plan's launches. Arrays are
// numpy's, of any type; what their elements are is said by `math`.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "gcn/execute.h"
#include "gcn/hopper/hopper_tiles.h"
#include "gcn/plan.h"
#include "gcn/tickets.h"
#include "gcn/tiles.h"
#include "python_emulator.h"

namespace py = pybind11;
using namespace gcn::cuda;

namespace {

using MaybeArray = std::optional<py::array>;

Sizes to_sizes(const std::vector<int64_t>& s) {
  if (s.size() != 11) throw std::invalid_argument("sizes: expected n, c, h, w, m_l, m_r, o, k1, k2, k3, k4");
  return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10]};
}

Math to_math(const std::string& name) {
  const std::pair<const char*, Math> all[] = {{"half", Math::kHalf},
                                              {"bfloat16", Math::kBFloat16},
                                              {"tf32", Math::kTf32},
                                              {"float", Math::kFloat},
                                              {"double", Math::kDouble}};
  for (const auto& [known, math] : all)
    if (name == known) return math;
  throw std::invalid_argument(name + ": no such arithmetic");
}

Gpu to_gpu(const py::dict& changes) {
  Gpu gpu;
  for (const auto& [key, value] : changes) {
    const std::string name = py::str(key);
    if (name == "multiprocessors") {
      gpu.multiprocessors = value.cast<int>();
    } else if (name == "shared_per_block") {
      gpu.shared_per_block = value.cast<int>();
    } else if (name == "shared_per_multiprocessor") {
      gpu.shared_per_multiprocessor = value.cast<int>();
    } else if (name == "l2_gigabytes") {  // a second
      gpu.l2 = value.cast<double>() * 1e9;
    } else if (name == "dependent_launch_us") {
      gpu.dependent_launch = value.cast<double>() * 1e-6;
    } else if (name == "second_stage") {  // which kernel, whatever should take less time
      gpu.overrides.second_stage = value.cast<int>();
    } else if (name == "first_stage_ahead") {
      gpu.overrides.first_stage_ahead = value.cast<int>();
    } else if (name == "input_grad_columns") {
      gpu.overrides.input_grad_columns = value.cast<int>();
    } else if (name == "first_stage_splits") {
      gpu.overrides.first_stage_splits = value.cast<int>();
    } else if (name == "unpacked_weights") {
      gpu.overrides.unpacked_weights = value.cast<int>();
    } else if (name == "second_stage_turned") {
      gpu.overrides.second_stage_turned = value.cast<int>();
    } else if (name == "hopper") {
      gpu.hopper = value.cast<bool>();
      gpu.generation = Generation::kHopper;
    } else {
      throw std::invalid_argument(name + ": no such property of a GPU");
    }
  }
  return gpu;
}

Strides strides_of(const py::array& map) {
  if (map.ndim() != 4) throw std::invalid_argument("a map has four dimensions");
  const auto at = [&](int i) { return int64_t(map.strides(i) / map.itemsize()); };
  return {at(0), at(1), at(2), at(3)};
}

bool aligned(const py::array& map) { return reinterpret_cast<uintptr_t>(map.data()) % 16 == 0; }
const void* data(const py::array& a) { return a.data(); }
// Their taps are along dimension 2 in k x 1 convolutions, along dimension 3 in 1 x k ones.
StridedWeights weights_of(const py::array& w, int taps) {
  const Strides s = strides_of(w);
  return {w.data(), s.n, s.c, taps == 2 ? s.h : s.w};
}
StridedWeightGrad weights_of(MaybeArray& w, int taps) {
  if (!w) return {};
  const Strides s = strides_of(*w);
  return {w->mutable_data(), s.n, s.c, taps == 2 ? s.h : s.w};
}
const void* data(const MaybeArray& a) { return a ? a->data() : nullptr; }
void* writable(py::array& a) { return a.mutable_data(); }
void* writable(MaybeArray& a) { return a ? a->mutable_data() : nullptr; }

// From the first byte of an array's elements to the last, whatever lies between.
size_t span(const py::array& a) {
  py::ssize_t bytes = a.itemsize();
  for (py::ssize_t i = 0; i < a.ndim(); ++i) {
    if (a.shape(i) == 0) return 0;
    bytes += (a.shape(i) - 1) * a.strides(i);
  }
  return static_cast<size_t>(bytes);
}

// What lies between the elements of a map that is not dense may belong to nobody, and be very large.
void declare(DeclaredMemory& memory, py::array& a) {
  if (span(a) == static_cast<size_t>(a.nbytes())) memory.declare(a.mutable_data(), span(a));
}
void declare(DeclaredMemory& memory, MaybeArray& a) {
  if (a) declare(memory, *a);
}

// What the plan asks for and not a byte more, filled with nan.
struct Workspace {
  explicit Workspace(size_t bytes) : size(bytes), data(std::aligned_alloc(256, bytes ? bytes : 256), &std::free) {
    if (!data) throw std::bad_alloc();
    std::memset(data.get(), 0xFF, bytes);
  }
  size_t size;
  std::unique_ptr<void, void (*)(void*)> data;
};

void check(int error) {
  if (error) throw std::runtime_error("the launch says error " + std::to_string(error));
}

// What is special about a plan, one fact each, so that the tests can see that they reach every branch.
class Facts {
  static constexpr const char* orders[] = {"channels_last", "nchw", "rows of channels_last"};

 public:
  void add(const std::string& fact) { facts_.append(fact); }
  void add_if(bool holds, const std::string& fact) {
    if (holds) add(fact);
  }
  void add(const SourcePlan& source) {
    add(source.planes          ? "x packed from planes"
        : source.packed        ? "x packed"
        : source.channels_last ? "x channels_last"
                               : "x nchw");
  }
  void add(const FirstStagePlan& f) {
    add("first_stage of " + std::to_string(f.column_blocks) + " column blocks");
    add_if(f.splits > 1, "first_stage splits");
    for (const auto& b : f.branch) {
      add(b.overhang ? "first_stage overhang" : "first_stage whole lines");
      add_if(b.interleave > 1, "first_stage interleaved lines");
      add_if(b.tap_groups > 1, "first_stage groups of taps");
      add_if(b.groups > b.tap_groups, "first_stage groups of middle channels");
      add(b.complete ? "first_stage completes u" : "combine");
      add_if(b.taps.skipped > 0, "taps skipped");
    }
  }
  void add(const LineConvPlan& l) {
    add(std::string("line_conv ") + line_tile(l.tile).name);
    add_if(l.phases > 1, "line_conv phases");
    add_if(l.n_tiles > 1, "line_conv tiles of outputs");
    const std::string order = orders[static_cast<int>(l.order)];
    add("line_conv to " + order + (l.vector ? ", whole pieces" : ", single elements"));
  }
  void add(const WeightGradPlan& g, bool channels_last) {
    add("weight_grad " + std::string(g.narrow ? "narrow" : channels_last ? "channels_last" : "nchw"));
    add("weight_grad of " + std::to_string(g.column_blocks) + " column blocks");
    add_if(g.splits > 1, "weight_grad splits");
    add_if(g.narrow && g.channels > weight_grad_rows(true), "weight_grad narrow tiles of channels");
    for (const auto& b : g.branch) {
      add_if(b.octets > 1, "weight_grad several octets");
      add_if(g.narrow && b.groups > 1, "weight_grad narrow groups");
      add_if(g.narrow && b.groups && b.octets == b.channels / kOctet, "weight_grad narrow with all octets");
    }
  }
  void add(const HopperPlan& h, const FirstStagePlan& f, const Sizes& sizes) {
    add_if(!h.why_portable.empty(), "portable: " + h.why_portable);
    if (h.first.used) add_hopper(h.first, f, sizes);
    if (h.y.used) add_hopper(h.y, sizes);
  }
  void add_hopper(const HopperSecondStagePlan& h, const Sizes& sizes) {
    const std::string name = h.apart ? "hopper second_stage du " : "hopper second_stage y ";
    add(name + (h.turned ? "in turned patches of " : "in patches of ") + std::to_string(h.patch_pixels));
    add_if(h.blocks / h.n_tiles < sizes.n * h.patches_h * h.patches_w, name + "of blocks with several units");
    add_if(h.n_tiles > 1, name + "of tiles of outputs");
    for (int i = 0; i < 2; ++i) {
      add_if(h.octets[i] > 1, name + "of pairs of octets");
      add_if(h.octets[i] % 2, name + "of a single octet, " + (h.radius[i] % 2 ? "odd" : "even") + " radius");
      const std::string order = orders[static_cast<int>(h.order[i])];
      add(name + "to " + order + (h.vector[i] ? ", whole pieces" : ", single elements"));
    }
  }
  void add_hopper(const HopperFirstStagePlan& h, const FirstStagePlan& f, const Sizes& sizes) {
    add_if(h.sharing > 1, "hopper first_stage blocks that share weights");
    add("hopper first_stage of " + std::to_string(h.positions) + " positions");
    add_if(f.splits > 1, "hopper first_stage splits");
    int64_t items[2];
    for (int axis = 0; axis < 2; ++axis) {
      const auto& b = f.branch[axis];
      items[axis] = sizes.n * h.bundles[axis] * h.segments[axis];
      add_if(items[axis] % 2, "hopper first_stage warpgroup without an item");
      add_if((items[axis] + 1) / 2 % h.sharing, "hopper first_stage block without items");
      add_if(h.segments[axis] > 1, "hopper first_stage segments of lines");
      add_if(b.taps.taps % b.group_taps, "hopper first_stage groups of taps that overlap");
      add_if(b.groups > b.tap_groups, "hopper first_stage groups of middle channels");
    }
    add_if((items[0] + 1) / 2 != (items[1] + 1) / 2, "hopper first_stage unequal axes");
  }
  void add(const HopperPlan& h, const WeightGradPlan& g, const Sizes& sizes) {
    add_if(!h.why_portable.empty(), "portable: " + h.why_portable);
    if (h.du.used) add_hopper(h.du, sizes);
    if (h.input_grad.used) {
      const InputGradShape shape = input_grad_shape(h.input_grad.tile);
      add("hopper input_grad of " + (shape.nchw
                                         ? std::to_string(shape.patch_h) + " x " + std::to_string(shape.patch_w) + " pixels"
                                         : std::to_string(shape.channels) + " channels"));
      add("hopper input_grad in clusters of " + std::to_string(h.input_grad.cluster));
      add_if(sizes.n * h.input_grad.patches_h * h.input_grad.patches_w % h.input_grad.cluster, "hopper input_grad patch outside");
      add_if(h.input_grad.n_tiles > 1, "hopper input_grad tiles of channels");
      add_if(h.input_grad.together > 1, "hopper input_grad tiles with the same windows");
      add_if(h.input_grad.n_tiles % h.input_grad.together, "hopper input_grad tile without another one");
      for (int octets : h.input_grad.octets) {
        add_if(octets > 1, "hopper input_grad pairs of octets");
        add_if(octets % 2, "hopper input_grad single octet");
      }
    }
    if (!h.weight_grad.used) return;
    add("hopper weight_grad");
    add_if(g.splits > 1, "hopper weight_grad splits");
    for (const auto& b : g.branch) {
      add_if(b.channels / kOctet > 3, "hopper weight_grad groups of octets");
      add_if(b.taps.taps > 15, "hopper weight_grad groups of taps");
    }
  }
  py::list list() const { return facts_; }

 private:
  py::list facts_;
};

// `weights`: the first ones, w_l1 and w_r1.
ForwardPlan forward_plan(const std::vector<int64_t>& sizes, const std::string& math_name, const py::array& x, const py::array& y,
                         const py::array (&weights)[2], const py::dict& gpu) {
  const Math math = to_math(math_name);
  const Sizes s = to_sizes(sizes);
  const bool whole = in_whole_pieces(weights_of(weights[0], 2), s.m_l, s.k1, math) &&
                     in_whole_pieces(weights_of(weights[1], 3), s.m_r, s.k3, math);
  return plan_forward(s, math, {strides_of(x), aligned(x)}, strides_of(y), aligned(y), whole, to_gpu(gpu));
}

py::list forward_facts(const std::vector<int64_t>& sizes, const std::string& math, const py::array& x, const py::array& y,
                       const std::vector<py::array>& weights, const py::dict& gpu) {
  const ForwardPlan plan = forward_plan(sizes, math, x, y, {weights[0], weights[2]}, gpu);
  Facts facts;
  if (plan.unpacked) {
    facts.add("unpacked weights, first_stage of " + std::to_string(plan.first.column_blocks) + " column blocks");
    facts.add(plan.tickets ? "unpacked weights, tickets" : "unpacked weights, whole sums");
    for (const auto& b : plan.first.branch) facts.add_if(b.taps.skipped > 0, "unpacked weights, taps skipped");
  } else if (plan.tensor_cores) {
    facts.add_if(!plan.why_packed.empty(), "packed: " + plan.why_packed);
    facts.add(plan.source), facts.add(plan.first), facts.add(plan.second);
    facts.add(plan.hopper, plan.first, plan.sizes);
  } else {
    facts.add("direct: " + plan.why_direct);
  }
  return facts.list();
}

void forward(const std::vector<int64_t>& sizes, const std::string& math, const py::array& x,
             const std::vector<py::array>& weights, const std::vector<MaybeArray>& biases, py::array y, py::array u_l,
             py::array u_r, const py::dict& gpu) {
  const ForwardPlan plan = forward_plan(sizes, math, x, y, {weights[0], weights[2]}, gpu);
  Workspace workspace(plan.workspace_bytes);
  DeclaredMemory written({{workspace.data.get(), workspace.size}});
  for (py::array* a : {&y, &u_l, &u_r}) declare(written, *a);
  const ForwardTensors tensors{data(x),
                               weights_of(weights[0], 2),
                               weights_of(weights[1], 3),
                               weights_of(weights[2], 3),
                               weights_of(weights[3], 2),
                               data(biases[0]),
                               data(biases[1]),
                               data(biases[2]),
                               data(biases[3]),
                               writable(y),
                               writable(u_l),
                               writable(u_r)};
  check(run_forward(plan, tensors, workspace.data.get(), nullptr));
}

Wanted to_wanted(const std::vector<bool>& w) {
  if (w.size() != 9) throw std::invalid_argument("wanted: expected nine flags, in the order of the operator's arguments");
  return {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]};
}

// `gradients`: of x, w_l1, w_l2, w_r1, w_r2, b_l1, b_l2, b_r1, b_r2; None where one is not wanted.
BackwardPlan backward_plan(const std::vector<int64_t>& sizes, const std::string& math, const py::array& dy, const py::array& x,
                           const MaybeArray& dx, const std::vector<bool>& wanted, const py::dict& gpu) {
  const Strides dx_strides = dx ? strides_of(*dx) : Strides{};
  return plan_backward(to_sizes(sizes), to_math(math), {strides_of(x), aligned(x)}, strides_of(dy), dx_strides, to_wanted(wanted),
                       to_gpu(gpu));
}

py::list backward_facts(const std::vector<int64_t>& sizes, const std::string& math, const py::array& dy, const py::array& x,
                        const MaybeArray& dx, const std::vector<bool>& wanted, const py::dict& gpu) {
  const BackwardPlan plan = backward_plan(sizes, math, dy, x, dx, wanted, gpu);
  Facts facts;
  if (!plan.tensor_cores) {
    facts.add("direct: " + plan.why_direct);
    return facts.list();
  }
  if (plan.wanted.first_stage())
    for (const LineConvPlan& du : plan.du) facts.add(du);
  if (plan.wanted.x) facts.add(plan.dx);
  if (plan.wanted.w_l1 || plan.wanted.w_r1) facts.add(plan.source), facts.add(plan.first, plan.source.channels_last);
  if (plan.wanted.w_l2 || plan.wanted.w_r2) {
    facts.add(plan.second, true);
    facts.add_if(plan.second.narrow, plan.du_narrow ? "second_stage_grad with du" : "second_stage_grad without du");
  }
  facts.add(plan.hopper, plan.first, plan.sizes);
  return facts.list();
}

void backward(const std::vector<int64_t>& sizes, const std::string& math, const py::array& dy, const py::array& x,
              const py::array& u_l, const py::array& u_r, const std::vector<py::array>& weights,
              std::vector<MaybeArray> gradients, const py::dict& gpu) {
  std::vector<bool> wanted;
  for (const MaybeArray& g : gradients) wanted.push_back(g.has_value());
  const BackwardPlan plan = backward_plan(sizes, math, dy, x, gradients[0], wanted, gpu);
  Workspace workspace(plan.workspace_bytes);
  DeclaredMemory written({{workspace.data.get(), workspace.size}});
  for (MaybeArray& g : gradients) declare(written, g);
  const auto to = [&](int i) { return writable(gradients[static_cast<size_t>(i)]); };
  const BackwardTensors tensors{data(dy),
                                data(x),
                                data(u_l),
                                data(u_r),
                                weights_of(weights[0], 2),
                                weights_of(weights[1], 3),
                                weights_of(weights[2], 3),
                                weights_of(weights[3], 2),
                                to(0),
                                weights_of(gradients[1], 2),
                                weights_of(gradients[2], 3),
                                weights_of(gradients[3], 3),
                                weights_of(gradients[4], 2),
                                to(5),
                                to(6),
                                to(7),
                                to(8)};
  check(run_backward(plan, tensors, workspace.data.get(), nullptr));
}

// As if so many other workspaces had been used that no counters are left.
void use_up_tickets() {
  static char others[kTicketSlots];
  for (const char& workspace : others) TicketCounters::of(&workspace);
}

}  // namespace

PYBIND11_MODULE(emu_operator, m) {
  bind_emulator(m);
  m.def("padded", &padded, "Channels of a padded map.");
  m.def("use_up_tickets", &use_up_tickets);
  m.def("forward_facts", &forward_facts);
  m.def("backward_facts", &backward_facts);
  m.def("forward", &forward);
  m.def("backward", &backward);
}
