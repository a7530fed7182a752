#include "plan.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "hopper/hopper_measured.h"
#include "hopper/hopper_plan_rules.h"
#include "plan_parts.h"

namespace gcn::cuda {

Overrides read_overrides(const std::string& text) {
  Overrides o;
  const std::pair<const char*, int*> known[] = {{"first_stage_sharing", &o.first_stage_sharing},
                                                {"first_stage_splits", &o.first_stage_splits},
                                                {"first_stage_ahead", &o.first_stage_ahead},
                                                {"input_grad_cluster", &o.input_grad_cluster},
                                                {"input_grad_channels", &o.input_grad_channels},
                                                {"input_grad_rows", &o.input_grad_rows},
                                                {"input_grad_columns", &o.input_grad_columns},
                                                {"input_grad_together", &o.input_grad_together},
                                                {"input_grad_portable", &o.input_grad_portable},
                                                {"x_by_elements", &o.x_by_elements},
                                                {"weight_grad_splits", &o.weight_grad_splits},
                                                {"second_stage", &o.second_stage},
                                                {"second_stage_turned", &o.second_stage_turned},
                                                {"unpacked_weights", &o.unpacked_weights},
                                                {"strips_banded", &o.strips_banded},
                                                {"refine_march", &o.refine_march}};
  std::string names;
  for (const auto& [name, place] : known) names += (names.empty() ? "" : ", ") + std::string(name);
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t equals = part.find('=');
    const std::string name = part.substr(0, equals), value = equals == std::string::npos ? "" : part.substr(equals + 1);
    const auto found = std::find_if(std::begin(known), std::end(known), [&](const auto& k) { return name == k.first; });
    const bool number = !value.empty() && value.size() < 6 && value.find_first_not_of("0123456789") == std::string::npos;
    if (found == std::end(known) || !number) {
      throw std::invalid_argument("GCN_KERNELS_PLAN: expected name=number,... with names among " + names + "; got " + part);
    }
    *found->second = std::stoi(value);
  }
  return o;
}

namespace {

// Hands out places in the workspace.
size_t take(size_t& total, size_t bytes) {
  const size_t at = total;
  total += size_t(round_up(int64_t(bytes), 256));
  return at;
}

// --- x ---------------------------------------------------------------------------------------------------------------------

Strides padded_strides(const Sizes& s, int channels) { return {s.h * s.w * channels, 1, s.w * channels, channels}; }

// Offsets are 32-bit numbers of pieces.
bool reaches(const Sizes& s, const Strides& pieces) {
  return (s.n - 1) * pieces.n + (s.h - 1) * pieces.h + (s.c - 1) * pieces.c + (s.w - 1) * pieces.w <
         std::numeric_limits<uint32_t>::max();
}

// A copy of x, channels_last and padded to whole pieces.
SourcePlan copied_source(const Sizes& s, Math math) {
  const int64_t piece = piece_elements(math);
  const Strides own = padded_strides(s, padded(s.c));
  const Strides pieces{own.n / piece, 0, own.h / piece, own.w / piece};
  if (!reaches(s, pieces)) throw TooLarge("x has more than 2^32 16-byte pieces");
  return {true, true, pieces};
}

// Dimensions may have stride 0, and rows may overlap; PyTorch has no negative strides.
SourcePlan plan_source(const Sizes& s, Math math, const MapLayout& x) {
  const int64_t piece = piece_elements(math);
  // The stride of a dimension of one element says nothing.
  const Strides t{s.n > 1 ? x.strides.n : 0, s.c > 1 ? x.strides.c : 1, s.h > 1 ? x.strides.h : 0, s.w > 1 ? x.strides.w : 1};
  const auto whole = [&](int64_t stride) { return stride % piece == 0; };
  if (x.aligned && t.c == 1 && s.c % piece == 0 && whole(t.n) && whole(t.h) && (s.w == 1 || whole(t.w))) {
    const Strides pieces{t.n / piece, 0, t.h / piece, s.w == 1 ? 0 : t.w / piece};
    if (reaches(s, pieces)) return {false, true, pieces};
  }
  if (x.aligned && t.w == 1 && s.w % piece == 0 && whole(t.n) && whole(t.h) && (s.c == 1 || whole(t.c))) {
    const Strides pieces{t.n / piece, s.c == 1 ? 0 : t.c / piece, t.h / piece, 0};
    if (reaches(s, pieces)) return {false, false, pieces};
  }
  return copied_source(s, math);
}

// Whether each element of a map in channels_last has a place of its own, as the maps that the copy engine is promised to take.
bool lies_apart(const SourcePlan& source, const Sizes& s, Math math) {
  std::array<std::pair<int64_t, int64_t>, 3> dimensions{{{source.pieces.w, s.w}, {source.pieces.h, s.h}, {source.pieces.n, s.n}}};
  std::sort(dimensions.begin(), dimensions.end());
  int64_t extent = ceil_div(s.c, piece_elements(math));
  for (const auto& [stride, size] : dimensions) {
    if (size == 1) continue;
    if (stride < extent) return false;
    extent += (size - 1) * stride;
  }
  return true;
}

// As the Hopper kernels take it: to copy a map costs far less than what they save.
SourcePlan hopper_source(const SourcePlan& source, const Sizes& s, Math math) {
  return source.channels_last && lies_apart(source, s, math) ? source : copied_source(s, math);
}

// Whether a copy of x can be made 16 bytes at a time: PackMap::planes.
bool in_planes(const Sizes& s, Math math, const MapLayout& x) {
  const int64_t pixels = s.h * s.w;
  const auto whole = [&](int64_t size, int64_t stride) { return size == 1 || stride % kOctet == 0; };
  const bool dense = (s.w == 1 || x.strides.w == 1) && (s.h == 1 || x.strides.h == s.w);
  return element_bytes(math) == 2 && x.aligned && dense && pixels % kOctet == 0 && whole(s.c, x.strides.c) &&
         whole(s.n, x.strides.n) && pixels <= std::numeric_limits<int32_t>::max() - kPlanePixels;
}

size_t padded_map_bytes(const Sizes& s, int64_t channels, Math math) {
  return size_t(s.n * s.h * s.w) * padded(channels) * element_bytes(math);
}

// --- bias gradients ------------------------------------------------------------------------------------------------------------

// Returns the bytes of all parts.
double place_sums(BackwardPlan& plan) {
  const size_t before = plan.workspace_bytes, bytes = plan.math == Math::kDouble ? 8 : 4;
  for (auto& sums : plan.sums) {
    sums.at = take(plan.workspace_bytes, sums.wanted ? size_t(sums.channels) * size_t(sums.parts) * bytes : 0);
  }
  return double(plan.workspace_bytes - before);
}

// --- the direct kernels, and floors ------------------------------------------------------------------------------------------

void note_direct(Plan& plan, const Gpu& gpu, const char* name, double multiplications) {
  constexpr double kPerClock = 16;  // loads from L1 that end in a multiplication, of an SM
  constexpr int kBlocks = 8;        // to a multiprocessor
  note(plan, {name, int64_t(gpu.multiprocessors) * kBlocks, 128, 0, kBlocks, 2 * multiplications},
       multiplications / kPerClock / gpu.multiprocessors, {}, gpu);
}

struct Work {
  double first, second, x_bytes, y_bytes;  // multiply-adds of each stage, bytes
};

Work work_of(const Sizes& s, Math math) {
  const double pixels = double(s.n * s.h * s.w), bytes = element_bytes(math);
  return {pixels * double(s.c * (s.k1 * s.m_l + s.k3 * s.m_r)), pixels * double(s.o * (s.k2 * s.m_l + s.k4 * s.m_r)),
          pixels * double(s.c) * bytes, pixels * double(s.o) * bytes};
}

constexpr const char* kPortableIsQuicker = "the portable second stage should take less time";

// Of launches that `notes` adds to a plan.
template <class Notes>
double seconds_of(const Sizes& s, const Notes& notes) {
  Plan trial{};
  trial.sizes = s;
  notes(trial);
  return trial.predicted();
}

// Changes a plan so far to one in two launches; or returns why that is not possible.
std::string make_unpacked(ForwardPlan& plan, bool whole_weights, const Gpu& gpu) {
  if (!whole_weights) return "the first weights are not whole pieces of channels, as they are in channels_last";
  UnpackedPlan unpacked;
  try {
    const std::string why = plan_unpacked(plan.sizes, plan.math, plan.source, plan.second, gpu, unpacked);
    if (!unpacked.used) return why;
  } catch (const TooLarge& reason) {
    return reason.what();
  }
  plan.first = unpacked.first, plan.second = unpacked.second;
  plan.unpacked = true, plan.tickets = unpacked.tickets;
  for (int i = 0; i < 2; ++i) plan.partial_at[i] = take(plan.workspace_bytes, plan.first.branch[i].partial_bytes);
  plan.counters_at = take(plan.workspace_bytes, plan.tickets ? kTicketsOfACall * sizeof(uint32_t) : 0);
  note_unpacked(plan, unpacked, plan.math, gpu);
  return "";
}

// The GPU's whole matrix rate, which mma.sync does not reach on Hopper: floors are the hardware's, not the method's.
double matrix_floor(double multiplications, Math math, const Gpu& gpu) {
  constexpr double kMmaSyncShare = 0.6;
  return multiplications / (fma_per_clock(math, gpu) / kMmaSyncShare * gpu.multiprocessors * gpu.clock);
}

}  // namespace

Taps clip_taps(int64_t kernel, int64_t length, int axis) {
  const int radius = int(std::min(kernel / 2, length - 1));
  return {int(kernel), 2 * radius + 1, radius, int(kernel / 2) - radius, axis};
}

double Plan::predicted() const {
  double seconds = 0;
  for (const auto& l : launches) seconds += l.seconds;
  return seconds;
}

bool in_whole_pieces(const StridedWeights& w, int64_t outputs, int64_t kernel, Math math) {
  const int64_t piece = piece_elements(math), reach = (outputs - 1) * w.output_stride + (kernel - 1) * w.tap_stride;
  return w.input_stride == 1 && w.output_stride % piece == 0 && w.tap_stride % piece == 0 &&
         reach / piece < std::numeric_limits<uint32_t>::max() && reinterpret_cast<uintptr_t>(w.data) % kPieceBytes == 0;
}

ForwardPlan plan_forward(const Sizes& s, Math math, const MapLayout& x, Strides y, bool y_aligned, bool whole_weights,
                         const Gpu& gpu) {
  ForwardPlan plan{};
  plan.sizes = s;
  plan.math = math;
  plan.x_strides = x.strides, plan.y_strides = y;
  const Work work = work_of(s, math);
  plan.floor = std::max(matrix_floor(work.first + work.second, math, gpu), (work.x_bytes + work.y_bytes) / gpu.memory);
  try {
    if (math == Math::kDouble) throw TooLarge("float64 has no tensor core kernels");
    plan.source = plan_source(s, math, x);
    plan.first = plan_first_stage(s, math, plan.source, gpu);
    const std::vector<LineConvPlan::Term> terms = {{clip_taps(s.k2, s.w, 1), padded(s.m_l)},
                                                   {clip_taps(s.k4, s.h, 0), padded(s.m_r)}};
    const LineTile tile = choose_line_tile(s, math, terms, s.o, y, 1, gpu);
    plan.second = plan_line_conv(s, math, tile, terms, s.o, s.o, y, y_aligned, gpu);
  } catch (const TooLarge& reason) {
    plan.why_direct = reason.what();
    note_direct(plan, gpu, "direct_conv u_l and u_r", work.first);
    note_direct(plan, gpu, "direct_conv y", work.second);
    return plan;
  }
  plan.tensor_cores = true;
  ForwardPlan unpacked = plan;
  if (gpu.overrides.unpacked_weights == 1) {
    plan.why_packed = make_unpacked(unpacked, whole_weights, gpu);
    if (unpacked.unpacked) return unpacked;
  } else if (gpu.overrides.unpacked_weights == 0 && kMeasuredUnpacked) {
    make_unpacked(unpacked, whole_weights, gpu);
  }
  HopperPlan& h = plan.hopper;
  const WantsHopper wants = wants_hopper(s, math, false, gpu, h);
  if (wants.any) {
    const SourcePlan source = hopper_source(plan.source, s, math);
    FirstStagePlan stage = plan_first_stage(s, math, source, gpu);
    add_reason(h, plan_hopper_first_stage(s, math, gpu, stage, h.first));
    if (h.first.used) plan.source = source, plan.first = stage;
  }
  if (wants.second_stage) {
    const auto& terms = plan.second.terms;
    const SecondStageBranch branches[2] = {{terms[0].taps, terms[0].channels}, {terms[1].taps, terms[1].channels}};
    const LineConvPlan* const outs[2] = {&plan.second, &plan.second};
    add_reason(h, plan_hopper_second_stage(s, math, gpu, branches, outs, h.y));
    if (h.y.used && !gpu.overrides.second_stage) {
      const auto portable = [&](Plan& to) { note_line_conv(to, "", outs, 1, math, gpu); };
      const auto hopper = [&](Plan& to) { note_hopper_second_stage(to, "", h.y, {}, gpu); };
      if (seconds_of(s, portable) < seconds_of(s, hopper)) h.y = {}, add_reason(h, kPortableIsQuicker);
    }
    if (h.y.used) plan.second.packed_bytes = 0;
  }

  plan.source.planes = plan.source.packed && !gpu.overrides.x_by_elements && in_planes(s, math, x);
  size_t& bytes = plan.workspace_bytes;
  plan.x_at = take(bytes, plan.source.packed ? padded_map_bytes(s, s.c, math) : 0);
  double packed = 0, partial = 0;
  for (int i = 0; i < 2; ++i) {
    plan.first_at[i] = take(bytes, plan.first.branch[i].packed_bytes);
    plan.partial_at[i] = take(bytes, plan.first.branch[i].partial_bytes);
    packed += double(plan.first.branch[i].packed_bytes), partial += double(plan.first.branch[i].partial_bytes);
  }
  plan.second_at = take(bytes, plan.second.packed_bytes);
  for (int i = 0; i < 2; ++i) h.y.weights_at[i] = take(bytes, h.y.packed_bytes[i]);

  const FirstStagePlan& f = plan.first;
  const double u_bytes = double(padded_map_bytes(s, s.m_l, math) + padded_map_bytes(s, s.m_r, math));
  Traffic prepare{packed, 0};
  prepare.leave(packed, gpu);
  if (plan.source.packed) prepare.memory += work.x_bytes, prepare.leave(work.x_bytes, gpu);
  note_copy(plan, "prepare", prepare, gpu);
  Traffic first{work.x_bytes, packed};
  first.leave(partial > 0 ? partial : u_bytes, gpu);
  if (plan.hopper.first.used) {
    note_hopper_first_stage(plan, f, plan.hopper.first, first, gpu);
  } else {
    note_first_stage(plan, f, first, math, gpu);
  }
  if (partial > 0) {
    Traffic combine;
    combine.leave(partial, gpu), combine.leave(u_bytes, gpu);
    note_copy(plan, "combine", combine, gpu);
  }
  if (h.y.used) {
    Traffic y;
    y.leave(u_bytes, gpu), y.leave(work.y_bytes, gpu);
    note_hopper_second_stage(plan, "hopper_second_stage y", h.y, y, gpu);
  } else {
    const LineConvPlan* second = &plan.second;
    note_line_conv(plan, "line_conv y", &second, 1, math, gpu);
  }
  return unpacked.unpacked && unpacked.predicted() < plan.predicted() ? unpacked : plan;
}

BackwardPlan plan_backward(const Sizes& s, Math math, const MapLayout& x, Strides dy, Strides dx, const Wanted& wanted,
                           const Gpu& gpu) {
  BackwardPlan plan{};
  plan.sizes = s;
  plan.math = math;
  plan.x_strides = x.strides, plan.dy_strides = dy, plan.dx_strides = dx;
  plan.wanted = wanted;
  const int64_t pixels = s.n * s.h * s.w;
  const Work work = work_of(s, math);
  const bool first = wanted.w_l1 || wanted.w_r1, second = wanted.w_l2 || wanted.w_r2, du = wanted.first_stage();
  const double operations = work.first * (double(wanted.x) + double(first)) + work.second * (double(du) + double(second));
  plan.floor = std::max(matrix_floor(operations, math, gpu), (2 * work.x_bytes + work.y_bytes) / gpu.memory);
  const int64_t mid[2] = {s.m_l, s.m_r};
  const LineConvPlan* const both[2] = {&plan.du[0], &plan.du[1]};
  size_t& bytes = plan.workspace_bytes;
  // In either case dy and du stand in the workspace as padded maps.
  plan.dy_at = take(bytes, padded_map_bytes(s, s.o, math));
  for (int i = 0; i < 2; ++i) plan.du_at[i] = take(bytes, du ? padded_map_bytes(s, mid[i], math) : 0);
  // As the copying kernel sums maps; the line convolution sums what it writes.
  const auto sums = [&](bool want, int64_t channels) {
    return BackwardPlan::Sums{want, int(channels), pack_map_shares(pixels, padded(channels)), 0};
  };
  plan.sums[0] = sums(wanted.b_l2 || wanted.b_r2, s.o);
  plan.sums[1] = sums(wanted.b_l1, s.m_l), plan.sums[2] = sums(wanted.b_r1, s.m_r);
  // `beside`: what is in the same launch.
  const Taps second_taps[2] = {clip_taps(s.k2, s.w, 1), clip_taps(s.k4, s.h, 0)};
  const auto plan_second = [&](const LaunchWork& beside) {
    constexpr int kNarrowMax = 64;
    return plan_weight_grad(s, math, s.o, s.o <= kNarrowMax, true, second_taps, mid, {wanted.w_l2, wanted.w_r2}, beside, gpu);
  };
  const bool biases = plan.sums[0].wanted || plan.sums[1].wanted || plan.sums[2].wanted;
  try {
    if (math == Math::kDouble) throw TooLarge("float64 has no tensor core kernels");
    const Taps first_taps[2] = {clip_taps(s.k1, s.h, 0), clip_taps(s.k3, s.w, 1)};
    plan.source = plan_source(s, math, x);
    if (pixels > std::numeric_limits<int32_t>::max() - 2 * kTilePixels) throw TooLarge("x has more than 2^31 pixels");
    const int64_t most = std::max(s.m_l, s.m_r);
    const LineTile du_tile =
        choose_line_tile(s, math, {{second_taps[0], padded(s.o)}}, most, padded_strides(s, padded(most)), 2, gpu);
    plan.du_narrow = du && (du_tile == LineTile::kNarrow || du_tile == LineTile::kNarrowSmall);
    for (int i = 0; i < 2 && du; ++i) {
      const int width = padded(mid[i]);
      plan.du[i] =
          plan_line_conv(s, math, du_tile, {{second_taps[i], padded(s.o)}}, mid[i], width, padded_strides(s, width), true, gpu);
      plan.du[i].sums = plan.sums[1 + i].wanted;
    }
    if (wanted.x) {
      const std::vector<LineConvPlan::Term> terms = {{first_taps[0], padded(s.m_l)}, {first_taps[1], padded(s.m_r)}};
      plan.dx = plan_line_conv(s, math, choose_line_tile(s, math, terms, s.c, dx, 1, gpu), terms, s.c, s.c, dx, true, gpu);
    }
    if (first) {
      plan.first =
          plan_weight_grad(s, math, s.c, false, plan.source.channels_last, first_taps, mid, {wanted.w_l1, wanted.w_r1}, {}, gpu);
    }
    if (second) plan.second = plan_second(plan.du_narrow ? line_conv_work(both, 2, s, math, gpu) : LaunchWork{});
  } catch (const TooLarge& reason) {
    plan.why_direct = reason.what();
    place_sums(plan);
    note_copy(plan, "prepare", {2 * work.y_bytes, 0}, gpu);
    if (du) note_direct(plan, gpu, "direct_conv du_l and du_r", work.second);
    if (wanted.x) note_direct(plan, gpu, "direct_conv dx", work.first);
    if (first) note_direct(plan, gpu, "direct_weight_grad dw_l1 and dw_r1", work.first);
    if (second) note_direct(plan, gpu, "direct_weight_grad dw_l2 and dw_r2", work.second);
    if (wanted.b_l1 || wanted.b_r1) note_copy(plan, "prepare sums of du_l and du_r", {2 * work.y_bytes, 0}, gpu);
    if (biases) note_copy(plan, "finish", {}, gpu);
    return plan;
  }
  plan.tensor_cores = true;
  HopperInputGradPlan& dx_hopper = plan.hopper.input_grad;
  HopperSecondStagePlan& du_hopper = plan.hopper.du;
  const WantsHopper wants = wants_hopper(s, math, true, gpu, plan.hopper);
  if (wants.any) {
    if (wanted.x) add_reason(plan.hopper, plan_hopper_input_grad(s, math, gpu, plan.dx, dx_hopper));
    if (first) {
      const SourcePlan source = hopper_source(plan.source, s, math);
      add_reason(plan.hopper, plan_hopper_weight_grad(s, math, source, gpu, plan.first, plan.hopper.weight_grad));
      if (plan.hopper.weight_grad.used) plan.source = source;
    }
  }
  // The launches of du and, where they are narrow, of the second weights' gradients.
  Traffic second_reads{double(padded_map_bytes(s, s.m_l, math) + padded_map_bytes(s, s.m_r, math)), 0};
  second_reads.leave(work.y_bytes, gpu);
  const auto note_second_stage = [&](Plan& to, const HopperSecondStagePlan& hopper, const WeightGradPlan& dw, bool together) {
    const bool narrow = second && dw.narrow;
    if (hopper.used) {
      Traffic traffic;
      traffic.leave(work.y_bytes, gpu);
      traffic.leave(double(padded_map_bytes(s, s.m_l, math) + padded_map_bytes(s, s.m_r, math)), gpu);
      note_hopper_second_stage(to, "hopper_second_stage du_l and du_r", hopper, traffic, gpu);
    } else if (du && !(narrow && together)) {
      note_line_conv(to, "line_conv du_l and du_r", both, 2, math, gpu);
    }
    if (!narrow) return;
    LaunchWork all = weight_grad_work(dw, second_reads, s, math, gpu);
    if (together) all.add(line_conv_work(both, 2, s, math, gpu));
    const char* name = together ? "second_stage_grad du_l, du_r, dw_l2 and dw_r2" : "second_stage_grad dw_l2 and dw_r2";
    note(to, name, kThreads, weight_grad_blocks_per_multiprocessor(math == Math::kFloat, true), all, gpu);
  };
  if (wants.second_stage && du) {
    const SecondStageBranch branches[2] = {{plan.du[0].terms[0].taps, padded(s.o)}, {plan.du[1].terms[0].taps, padded(s.o)}};
    add_reason(plan.hopper, plan_hopper_second_stage(s, math, gpu, branches, both, du_hopper));
  }
  if (du_hopper.used) {
    const WeightGradPlan apart = second ? plan_second({}) : WeightGradPlan{};
    const auto portable = [&](Plan& to) { note_second_stage(to, {}, plan.second, plan.du_narrow); };
    const auto hopper = [&](Plan& to) { note_second_stage(to, du_hopper, apart, false); };
    if (!gpu.overrides.second_stage && seconds_of(s, portable) < seconds_of(s, hopper)) {
      du_hopper = {};
      add_reason(plan.hopper, kPortableIsQuicker);
    } else {
      plan.du_narrow = false;
      for (auto& of : plan.du) of.packed_bytes = 0;
      plan.second = apart;
    }
  }
  if (dx_hopper.used) plan.dx.packed_bytes = 0;
  const bool packs_x = first && plan.source.packed;
  plan.source.planes = packs_x && !gpu.overrides.x_by_elements && in_planes(s, math, x);
  plan.x_at = take(bytes, packs_x ? padded_map_bytes(s, s.c, math) : 0);
  for (int i = 0; i < 2; ++i) plan.du_weights_at[i] = take(bytes, plan.du[i].packed_bytes);
  for (int i = 0; i < 2; ++i) du_hopper.weights_at[i] = take(bytes, du_hopper.packed_bytes[i]);
  plan.dx_weights_at = take(bytes, plan.dx.packed_bytes);
  for (int i = 0; i < 2; ++i) dx_hopper.weights_at[i] = take(bytes, dx_hopper.packed_bytes[i]);
  plan.first_partial_at = take(bytes, plan.first.partial_bytes);
  plan.second_partial_at = take(bytes, plan.second.partial_bytes);
  for (int i = 0; i < 2; ++i) {
    const int halves = 2 * du_hopper.patches_h * du_hopper.patches_w;
    plan.sums[1 + i].parts = int(s.n) * (du_hopper.used ? halves : plan.du[i].tiles_h * plan.du[i].tiles_w);
  }
  const double sum_bytes = place_sums(plan);

  const double packed =
      double(plan.du[0].packed_bytes + plan.du[1].packed_bytes + plan.dx.packed_bytes + dx_hopper.packed_bytes[0] +
             dx_hopper.packed_bytes[1] + du_hopper.packed_bytes[0] + du_hopper.packed_bytes[1]);
  Traffic prepare{packed + work.y_bytes, 0};
  prepare.leave(packed, gpu), prepare.leave(work.y_bytes, gpu);
  if (packs_x) prepare.memory += work.x_bytes, prepare.leave(work.x_bytes, gpu);
  note_copy(plan, "prepare", prepare, gpu);
  note_second_stage(plan, du_hopper, plan.second, plan.du_narrow);
  if (dx_hopper.used) {
    Traffic traffic{work.x_bytes, double(dx_hopper.packed_bytes[0] + dx_hopper.packed_bytes[1])};
    traffic.leave(double(padded_map_bytes(s, s.m_l, math) + padded_map_bytes(s, s.m_r, math)), gpu);
    note_hopper_input_grad(plan, dx_hopper, traffic, gpu);
  } else if (wanted.x) {
    const LineConvPlan* dx_plan = &plan.dx;
    note_line_conv(plan, "line_conv dx", &dx_plan, 1, math, gpu);
  }
  if (plan.hopper.weight_grad.used) {
    Traffic traffic{work.x_bytes, 0};
    traffic.leave(double(plan.first.partial_bytes), gpu);
    note_hopper_weight_grad(plan, plan.first, plan.hopper.weight_grad, traffic, gpu);
  } else if (first) {
    note_weight_grad(plan, "weight_grad dw_l1 and dw_r1", plan.first, {work.x_bytes, 0}, math, gpu);
  }
  if (second && !plan.second.narrow) note_weight_grad(plan, "weight_grad dw_l2 and dw_r2", plan.second, second_reads, math, gpu);
  if (first || second || biases) {
    Traffic parts;
    const double small = double(plan.second.partial_bytes) + sum_bytes;
    parts.leave(double(plan.first.partial_bytes), gpu), parts.leave(small, gpu, 2 * work.x_bytes);
    note_copy(plan, "finish", parts, gpu);
  }
  return plan;
}

}  // namespace gcn::cuda
