#include "execute.h"

#include <algorithm>

#include "../chain.h"
#include "hopper/hopper_execute.h"
#include "tickets.h"
#include "tiles.h"

namespace gcn::cuda {
namespace {

unsigned char* at(void* workspace, size_t offset) { return static_cast<unsigned char*>(workspace) + offset; }

Strides padded_strides(const Sizes& s, int channels) { return {s.h * s.w * channels, 1, s.w * channels, channels}; }

PackMap pack_map(const Sizes& s, const void* from, const Strides& strides, int64_t channels, void* to, void* sums = nullptr) {
  PackMap map{};
  map.from = from, map.to = to, map.sums = sums;
  map.stride_n = strides.n, map.stride_c = strides.c, map.stride_h = strides.h, map.stride_w = strides.w;
  map.n = int(s.n), map.h = int(s.h), map.w = int(s.w);
  map.channels = int(channels), map.padded = padded(channels);
  map.shares = pack_map_shares(s.n * s.h * s.w, map.padded);
  return map;
}

template <class Plan>
PackMap pack_x(const Plan& plan, const void* from, void* to) {
  PackMap map = pack_map(plan.sizes, from, plan.x_strides, plan.sizes.c, to);
  map.planes = plan.source.planes;
  return map;
}

// --- line convolutions ---------------------------------------------------------------------------------------------------------

struct LineWeights {
  StridedWeights weights;
  int64_t inputs;
  bool flip;
};

PackLineWeights pack_line_weights(const LineConvPlan& l, const LineWeights* weights, void* to) {
  PackLineWeights p{};
  for (size_t i = 0; i < l.terms.size(); ++i) {
    const auto& t = l.terms[i];
    const LineWeights& w = weights[i];
    p.term[i] = {w.weights, int(w.inputs), t.channels, t.taps.kernel, t.taps.skipped, t.taps.taps, w.flip};
  }
  p.to = to;
  p.terms = int(l.terms.size());
  p.outputs = l.outputs;
  p.tile_outputs = line_tile_shape(l.tile).outputs();
  p.n_tiles = l.n_tiles;
  p.chunk = l.chunk;
  p.phases = l.phases;
  p.k_blocks = l.k_blocks;
  return p;
}

LineConv line_conv_job(const Sizes& s, const LineConvPlan& l, const void* const* maps, const void* weights, void* out) {
  LineConv j{};
  for (size_t i = 0; i < l.terms.size(); ++i) {
    const auto& t = l.terms[i];
    j.term[i] = {maps[i], t.channels, t.taps.taps, t.taps.radius, t.taps.axis};
  }
  j.terms = int(l.terms.size());
  j.weights = weights;
  j.out = out;
  j.stride_n = l.out.n, j.stride_c = l.out.c, j.stride_h = l.out.h, j.stride_w = l.out.w;
  j.outputs = l.outputs, j.outputs_written = l.outputs_written;
  j.order = l.order, j.vector = l.vector;
  j.n = int(s.n), j.h = int(s.h), j.w = int(s.w);
  j.tile_h = l.tile_h, j.tile_w = l.tile_w, j.tiles_h = l.tiles_h, j.tiles_w = l.tiles_w;
  j.chunk = l.chunk, j.phases = l.phases, j.k_blocks = l.k_blocks;
  return j;
}

// --- weight gradients ----------------------------------------------------------------------------

WeightGradParams weight_grad_params(const Sizes& s, const WeightGradPlan& g, const void* a, const Strides& pieces,
                                    const void* const (&maps)[2], void* partial) {
  WeightGradParams p{};
  p.a = a;
  p.stride_n = uint32_t(pieces.n), p.stride_c = uint32_t(pieces.c), p.stride_h = uint32_t(pieces.h),
  p.stride_w = uint32_t(pieces.w);
  p.channels = g.channels;
  p.n = int(s.n), p.h = int(s.h), p.w = int(s.w);
  p.patch_h = g.patch_h, p.patch_w = g.patch_w, p.patches_h = g.patches_h, p.patches_w = g.patches_w;
  p.splits = g.splits, p.blocks_per_row = g.blocks_per_row;
  p.partial = static_cast<float*>(partial);
  for (int i = 0; i < 2; ++i) {
    const auto& b = g.branch[i];
    WeightGradBranch& to = p.branch[i];
    to.map = maps[i], to.channels = b.channels;
    to.taps = b.taps.taps, to.radius = b.taps.radius, to.axis = b.taps.axis;
    to.blocks = b.blocks, to.groups = b.groups, to.group_blocks = b.group_blocks, to.first_block = b.first_block;
    to.octets = b.octets, to.by_columns = b.by_columns, to.inner_log2 = b.inner_log2;
  }
  return p;
}

StridedMap strided(const void* data, const Strides& s) { return {data, s.n, s.c, s.h, s.w}; }

// `out`: as FinishWeightGrad has it.
FinishWeightGrad finish_job(const WeightGradPlan& g, int branch, const void* partial, int64_t channels_b,
                            const StridedWeightGrad& out, bool flip) {
  const auto& of = g.branch[branch];
  FinishWeightGrad j{};
  j.partial = static_cast<const float*>(partial);
  j.out = out, j.flip = flip;
  j.taps_follow = out.tap_stride <= out.output_stride;
  j.splits = g.splits, j.blocks_per_row = g.blocks_per_row, j.first_block = of.first_block;
  j.channels_a = g.channels, j.channels_b = int(channels_b);
  j.taps = of.taps.taps, j.skipped = of.taps.skipped, j.kernel = of.taps.kernel;
  return j;
}

// --- the direct kernels --------------------------------------------------------------------------

DirectConv direct_conv_params(const Sizes& s, void* out, const Strides& strides, int64_t outputs, int64_t outputs_written) {
  DirectConv d{};
  d.out = out;
  d.stride_n = strides.n, d.stride_c = strides.c, d.stride_h = strides.h, d.stride_w = strides.w;
  d.outputs = int(outputs), d.outputs_written = int(outputs_written);
  d.n = int(s.n), d.h = int(s.h), d.w = int(s.w);
  return d;
}

void add_term(DirectConv& d, const StridedMap& map, const LineWeights& w, int64_t kernel, int axis, const void* bias) {
  d.term[d.terms++] = {map, w.weights, int(w.inputs), int(kernel), axis, w.flip, bias};
}

void direct_forward(const ForwardPlan& plan, const ForwardTensors& t, Chain& chain) {
  const Sizes& s = plan.sizes;
  const StridedMap x = strided(t.x, plan.x_strides);
  struct First {
    void* u;
    StridedWeights w;
    const void* b;
    int64_t mid, kernel;
    int axis;
  };
  for (const First& f : {First{t.u_l, t.w_l1, t.b_l1, s.m_l, s.k1, 0}, First{t.u_r, t.w_r1, t.b_r1, s.m_r, s.k3, 1}}) {
    DirectConv d = direct_conv_params(s, f.u, padded_strides(s, padded(f.mid)), f.mid, padded(f.mid));
    add_term(d, x, {f.w, s.c, false}, f.kernel, f.axis, f.b);
    chain.then("direct_conv", [&](Stream stream) { return direct_conv(plan.math, d, stream); });
  }
  DirectConv d = direct_conv_params(s, t.y, plan.y_strides, s.o, s.o);
  add_term(d, strided(t.u_l, padded_strides(s, padded(s.m_l))), {t.w_l2, s.m_l, false}, s.k2, 1, t.b_l2);
  add_term(d, strided(t.u_r, padded_strides(s, padded(s.m_r))), {t.w_r2, s.m_r, false}, s.k4, 0, t.b_r2);
  chain.then("direct_conv", [&](Stream stream) { return direct_conv(plan.math, d, stream); });
}

void direct_weight_grads(const BackwardPlan& plan, const BackwardTensors& t, const void* dy, void* const (&du)[2], Chain& chain) {
  const Sizes& s = plan.sizes;
  const Strides dy_strides = padded_strides(s, padded(s.o));
  const Strides u_strides[2] = {padded_strides(s, padded(s.m_l)), padded_strides(s, padded(s.m_r))};
  const int64_t mid[2] = {s.m_l, s.m_r}, first_k[2] = {s.k1, s.k3}, second_k[2] = {s.k2, s.k4};
  const bool first_wanted[2] = {plan.wanted.w_l1, plan.wanted.w_r1}, second_wanted[2] = {plan.wanted.w_l2, plan.wanted.w_r2};
  const StridedWeightGrad first_out[2] = {t.dw_l1, t.dw_r1}, second_out[2] = {t.dw_l2, t.dw_r2};
  const void* const u[2] = {t.u_l, t.u_r};
  for (int i = 0; i < 2; ++i) {
    DirectWeightGrad d{};
    d.n = int(s.n), d.h = int(s.h), d.w = int(s.w);
    if (first_wanted[i]) {  // w[m, c, t]: a is c, b is m
      d.a = strided(t.x, plan.x_strides), d.b = strided(du[i], u_strides[i]);
      d.out = first_out[i].turned();
      d.channels_a = int(s.c), d.channels_b = int(mid[i]), d.kernel = int(first_k[i]), d.axis = i, d.flip = true;
      chain.then("direct_weight_grad", [&](Stream stream) { return direct_weight_grad(plan.math, d, stream); });
    }
    if (second_wanted[i]) {  // w[o, m, t]: a is o, b is m
      d.a = strided(dy, dy_strides), d.b = strided(u[i], u_strides[i]);
      d.out = second_out[i];
      d.channels_a = int(s.o), d.channels_b = int(mid[i]), d.kernel = int(second_k[i]), d.axis = 1 - i, d.flip = false;
      chain.then("direct_weight_grad", [&](Stream stream) { return direct_weight_grad(plan.math, d, stream); });
    }
  }
}

// --- forward

FirstStageParams first_stage_params(const ForwardPlan& plan, const ForwardTensors& t, void* workspace) {
  const Sizes& s = plan.sizes;
  const FirstStagePlan& f = plan.first;
  const void* const bias[2] = {t.b_l1, t.b_r1};
  void* const u[2] = {t.u_l, t.u_r};
  FirstStageParams p{};
  p.x = plan.source.packed ? at(workspace, plan.x_at) : t.x;
  p.x_given = !plan.source.packed;
  const Strides& pieces = plan.source.pieces;
  p.stride_n = uint32_t(pieces.n), p.stride_c = uint32_t(pieces.c), p.stride_h = uint32_t(pieces.h),
  p.stride_w = uint32_t(pieces.w);
  p.n = int(s.n), p.c = int(s.c), p.h = int(s.h), p.w = int(s.w);
  p.tiles = f.tiles, p.splits = f.splits, p.k_blocks = f.k_blocks;
  for (int i = 0; i < 2; ++i) {
    const auto& b = f.branch[i];
    FirstStageBranch& to = p.branch[i];
    to.weights = at(workspace, plan.first_at[i]);
    to.bias = bias[i];
    to.u = b.complete || plan.tickets ? u[i] : nullptr;
    to.partial = reinterpret_cast<float*>(at(workspace, plan.partial_at[i]));
    to.mid = b.mid, to.mid_padded = padded(b.mid);
    to.taps = b.taps.taps, to.radius = b.taps.radius;
    to.length = b.length, to.interleave = b.interleave, to.overhang = b.overhang;
    to.group_mid = b.group_mid, to.group_taps = b.group_taps, to.tap_groups = b.tap_groups, to.groups = b.groups;
  }
  return p;
}

CombineParams combine_params(const ForwardPlan& plan, const ForwardTensors& t, const FirstStageParams& p) {
  void* const u[2] = {t.u_l, t.u_r};
  CombineParams c{};
  c.bias[0] = t.b_l1, c.bias[1] = t.b_r1;
  c.n = p.n, c.h = p.h, c.w = p.w, c.tiles = p.tiles;
  for (int i = 0; i < 2; ++i) {
    c.branch[i] = p.branch[i];
    c.u[i] = plan.first.branch[i].complete ? nullptr : u[i];
    c.slots[i] = plan.first.branch[i].slots;
  }
  return c;
}

void unpacked_forward(const ForwardPlan& plan, const ForwardTensors& t, void* workspace, Chain& chain) {
  const Sizes& s = plan.sizes;
  UnpackedFirstStage u{};
  u.stage = first_stage_params(plan, t, workspace);
  u.weights[0] = t.w_l1, u.weights[1] = t.w_r1;
  for (int i = 0; i < 2; ++i) u.skipped[i] = plan.first.branch[i].taps.skipped;
  if (plan.tickets) u.tickets = TicketCounters::of(workspace);
  const bool clears = u.tickets < 0;
  if (clears) {
    u.counters = reinterpret_cast<uint32_t*>(at(workspace, plan.counters_at));
    chain.then("clear", [&](Stream q) { return clear(u.counters, kTicketsOfACall * sizeof(uint32_t), q); });
  }
  chain.then("unpacked_first_stage", [&](Stream q) {
    q.dependent = q.dependent && !clears;
    return unpacked_first_stage(plan.math, plan.first.column_blocks, u, plan.first.shared_bytes, q);
  });

  const void* const maps[2] = {t.u_l, t.u_r};
  const LineWeights second[2] = {{t.w_l2, s.m_l, false}, {t.w_r2, s.m_r, false}};
  UnpackedSecondStage y{};
  y.job = line_conv_job(s, plan.second, maps, nullptr, t.y);
  y.job.bias[0] = t.b_l2, y.job.bias[1] = t.b_r2;
  y.weights = pack_line_weights(plan.second, second, nullptr);
  chain.then("unpacked_second_stage", [&](Stream q) { return unpacked_second_stage(plan.math, y, plan.second.shared_bytes, q); });
}

}  // namespace

int run_forward(const ForwardPlan& plan, const ForwardTensors& t, void* workspace, CUstream_st* stream) {
  Chain chain(stream);
  if (!plan.tensor_cores) {
    direct_forward(plan, t, chain);
    return chain.error();
  }
  if (plan.unpacked) {
    unpacked_forward(plan, t, workspace, chain);
    return chain.error();
  }
  const Sizes& s = plan.sizes;
  const FirstStagePlan& f = plan.first;
  const StridedWeights first_weights[2] = {t.w_l1, t.w_r1};

  PrepareParams packs{};
  if (plan.source.packed) packs.map[packs.maps++] = pack_x(plan, t.x, at(workspace, plan.x_at));
  for (int i = 0; i < 2; ++i) {
    const auto& b = f.branch[i];
    PackFirstWeights& to = packs.first[packs.firsts++];
    to.from = first_weights[i], to.to = at(workspace, plan.first_at[i]);
    to.mid = b.mid, to.channels = int(s.c), to.kernel = b.taps.kernel, to.skipped = b.taps.skipped;
    to.columns = 8 * f.column_blocks, to.k_blocks = f.k_blocks;
    to.group_mid = b.group_mid, to.group_taps = b.group_taps, to.tap_groups = b.tap_groups, to.groups = b.groups;
    to.taps = b.taps.taps;
    to.overlap = plan.hopper.first.used;
  }
  const LineWeights second[2] = {{t.w_l2, s.m_l, false}, {t.w_r2, s.m_r, false}};
  const PackLineWeights both = pack_line_weights(plan.second, second, at(workspace, plan.second_at));
  const HopperSecondStagePlan& of_y = plan.hopper.y;
  for (int i = 0; i < 2 && of_y.used; ++i)
    packs.line[packs.lines++] = hopper_second_stage_weights(of_y, i, both.term[i], both.outputs, workspace);
  if (!of_y.used) packs.line[packs.lines++] = both;
  chain.then("prepare", [&](Stream q) { return prepare(plan.math, packs, q); });

  const FirstStageParams p = first_stage_params(plan, t, workspace);
  const CombineParams c = combine_params(plan, t, p);
  chain.then(plan.hopper.first.used ? "hopper_first_stage" : "first_stage", [&](Stream q) {
    const HopperPlan& h = plan.hopper;
    if (h.first.used) {
      return hopper_first_stage(plan.math, hopper_first_stage_params(plan, p), h.first.blocks, h.first.shared_bytes, q);
    }
    return first_stage(plan.math, f.column_blocks, plan.source.channels_last, p, f.shared_bytes, q);
  });
  if (c.u[0] || c.u[1]) chain.then("combine", [&](Stream q) { return combine(plan.math, c, q); });

  const void* const maps[2] = {t.u_l, t.u_r};
  if (of_y.used) {
    HopperSecondStage y = hopper_second_stage_params(s, of_y, maps, {&plan.second, &plan.second}, workspace);
    y.out[0].to = t.y, y.out[0].bias[0] = t.b_l2, y.out[0].bias[1] = t.b_r2;
    chain.then("hopper_second_stage",
               [&](Stream q) { return hopper_second_stage(plan.math, of_y.patch_pixels, y, of_y.blocks, of_y.shared_bytes, q); });
    return chain.error();
  }
  LineConvParams y{};
  y.job[0] = line_conv_job(s, plan.second, maps, at(workspace, plan.second_at), t.y);
  y.job[0].bias[0] = t.b_l2, y.job[0].bias[1] = t.b_r2;
  chain.then("line_conv", [&](Stream q) { return line_conv(plan.math, plan.second.tile, y, 1, plan.second.shared_bytes, q); });
  return chain.error();
}

int run_backward(const BackwardPlan& plan, const BackwardTensors& t, void* workspace, CUstream_st* stream) {
  Chain chain(stream);
  const Sizes& s = plan.sizes;
  const Wanted& wanted = plan.wanted;
  const bool needs_du = wanted.first_stage();
  void* const dy = at(workspace, plan.dy_at);
  void* const du[2] = {at(workspace, plan.du_at[0]), at(workspace, plan.du_at[1])};
  const Strides mid_strides[2] = {padded_strides(s, padded(s.m_l)), padded_strides(s, padded(s.m_r))};
  // Weights as the input gradients see them: outputs and inputs change places, taps run backwards.
  const LineWeights second[2] = {{t.w_l2.turned(), s.o, true}, {t.w_r2.turned(), s.o, true}};
  const LineWeights first[2] = {{t.w_l1.turned(), s.m_l, true}, {t.w_r1.turned(), s.m_r, true}};
  void* sums[3];
  for (int i = 0; i < 3; ++i) sums[i] = plan.sums[i].wanted ? at(workspace, plan.sums[i].at) : nullptr;
  const bool first_weights = wanted.w_l1 || wanted.w_r1, second_weights = wanted.w_l2 || wanted.w_r2;

  const HopperSecondStagePlan& of_du = plan.hopper.du;
  PrepareParams packs{};
  packs.map[packs.maps++] = pack_map(s, t.dy, plan.dy_strides, s.o, dy, sums[0]);
  if (plan.tensor_cores) {
    if (first_weights && plan.source.packed) {
      packs.map[packs.maps++] = pack_x(plan, t.x, at(workspace, plan.x_at));
    }
    for (int i = 0; i < 2 && needs_du; ++i) {
      const PackLineWeights w = pack_line_weights(plan.du[i], &second[i], at(workspace, plan.du_weights_at[i]));
      packs.line[packs.lines++] = of_du.used ? hopper_second_stage_weights(of_du, i, w.term[0], w.outputs, workspace) : w;
    }
    if (wanted.x) {
      const PackLineWeights both = pack_line_weights(plan.dx, first, at(workspace, plan.dx_weights_at));
      const bool apart = plan.hopper.input_grad.used;
      for (int i = 0; i < 2 && apart; ++i) packs.line[packs.lines++] = hopper_input_grad_weights(plan, i, both, workspace);
      if (!apart) packs.line[packs.lines++] = both;
    }
  }
  chain.then("prepare", [&](Stream q) { return prepare(plan.math, packs, q); });

  FinishParams end{};
  if (plan.tensor_cores) {
    SecondStageGradParams both{};
    for (int i = 0; i < 2 && needs_du; ++i) {
      both.du.job[i] = line_conv_job(s, plan.du[i], &dy, at(workspace, plan.du_weights_at[i]), du[i]);
      both.du.job[i].sums = static_cast<float*>(sums[1 + i]);
    }
    void* const second_partial = at(workspace, plan.second_partial_at);
    const Strides dy_strides = padded_strides(s, padded(s.o));
    if (second_weights) {
      const int64_t piece = kPieceBytes / element_bytes(plan.math);
      const Strides pieces{dy_strides.n / piece, 0, dy_strides.h / piece, dy_strides.w / piece};
      both.dw = weight_grad_params(s, plan.second, dy, pieces, {t.u_l, t.u_r}, second_partial);
    }
    const int du_shared = std::max(plan.du[0].shared_bytes, plan.du[1].shared_bytes);
    const bool narrow = second_weights && plan.second.narrow, together = narrow && plan.du_narrow;
    if (of_du.used) {
      HopperSecondStage p = hopper_second_stage_params(s, of_du, {dy, dy}, {&plan.du[0], &plan.du[1]}, workspace);
      for (int i = 0; i < 2; ++i) p.out[i].to = du[i], p.out[i].sums = static_cast<float*>(sums[1 + i]);
      chain.then("hopper_second_stage", [&](Stream q) {
        return hopper_second_stage(plan.math, of_du.patch_pixels, p, of_du.blocks, of_du.shared_bytes, q);
      });
    } else if (needs_du && !together) {
      chain.then("line_conv", [&](Stream q) { return line_conv(plan.math, plan.du[0].tile, both.du, 2, du_shared, q); });
    }
    if (narrow) {
      const int rows = weight_grad_rows(true), tiles = int((s.o + rows - 1) / rows);
      both.jobs = together ? 2 : 0;
      both.dw_blocks = (plan.second.branch[0].groups + plan.second.branch[1].groups) * tiles * plan.second.splits;
      const int shared = std::max(plan.second.shared_bytes, together ? du_shared : 0);
      const LineTile tile = together ? plan.du[0].tile : LineTile::kNarrowSmall;
      chain.then("second_stage_grad", [&](Stream q) { return second_stage_grad(plan.math, tile, both, shared, q); });
    }
    if (const HopperInputGradPlan& h = plan.hopper.input_grad; h.used) {
      const HopperInputGrad p = hopper_input_grad_params(plan, {du[0], du[1]}, workspace, t.dx);
      chain.then("hopper_input_grad",
                 [&](Stream q) { return hopper_input_grad(plan.math, h.tile, p, h.blocks, h.shared_bytes, q); });
    } else if (wanted.x) {
      LineConvParams p{};
      p.job[0] = line_conv_job(s, plan.dx, du, at(workspace, plan.dx_weights_at), t.dx);
      chain.then("line_conv", [&](Stream q) { return line_conv(plan.math, plan.dx.tile, p, 1, plan.dx.shared_bytes, q); });
    }
    if (first_weights) {
      const void* x = plan.source.packed ? at(workspace, plan.x_at) : t.x;
      void* partial = at(workspace, plan.first_partial_at);
      const WeightGradParams p = weight_grad_params(s, plan.first, x, plan.source.pieces, {du[0], du[1]}, partial);
      chain.then(plan.hopper.weight_grad.used ? "hopper_weight_grad" : "weight_grad", [&](Stream q) {
        const HopperWeightGradPlan& h = plan.hopper.weight_grad;
        if (h.used) return hopper_weight_grad(plan.math, hopper_weight_grad_params(plan, p), h.blocks, h.shared_bytes, q);
        return weight_grad(plan.math, plan.source.channels_last, plan.first.column_blocks, p, plan.first.shared_bytes, q);
      });
      if (wanted.w_l1) end.weight[end.weights++] = finish_job(plan.first, 0, partial, s.m_l, t.dw_l1.turned(), true);
      if (wanted.w_r1) end.weight[end.weights++] = finish_job(plan.first, 1, partial, s.m_r, t.dw_r1.turned(), true);
    }
    if (second_weights) {
      if (!narrow) {
        chain.then("weight_grad", [&](Stream q) {
          return weight_grad(plan.math, true, plan.second.column_blocks, both.dw, plan.second.shared_bytes, q);
        });
      }
      if (wanted.w_l2) end.weight[end.weights++] = finish_job(plan.second, 0, second_partial, s.m_l, t.dw_l2, false);
      if (wanted.w_r2) end.weight[end.weights++] = finish_job(plan.second, 1, second_partial, s.m_r, t.dw_r2, false);
    }
  } else {
    const StridedMap dy_map = strided(dy, padded_strides(s, padded(s.o)));
    const int64_t mid[2] = {s.m_l, s.m_r}, second_k[2] = {s.k2, s.k4}, first_k[2] = {s.k1, s.k3};
    for (int i = 0; i < 2 && needs_du; ++i) {
      DirectConv d = direct_conv_params(s, du[i], padded_strides(s, padded(mid[i])), mid[i], padded(mid[i]));
      add_term(d, dy_map, second[i], second_k[i], 1 - i, nullptr);
      chain.then("direct_conv", [&](Stream q) { return direct_conv(plan.math, d, q); });
    }
    if (wanted.x) {
      DirectConv d = direct_conv_params(s, t.dx, plan.dx_strides, s.c, s.c);
      for (int i = 0; i < 2; ++i)
        add_term(d, strided(du[i], padded_strides(s, padded(mid[i]))), first[i], first_k[i], i, nullptr);
      chain.then("direct_conv", [&](Stream q) { return direct_conv(plan.math, d, q); });
    }
    direct_weight_grads(plan, t, dy, du, chain);
    PrepareParams sums_of_du{};
    for (int i = 0; i < 2; ++i) {
      if (sums[1 + i]) sums_of_du.map[sums_of_du.maps++] = pack_map(s, du[i], mid_strides[i], mid[i], nullptr, sums[1 + i]);
    }
    if (sums_of_du.maps) chain.then("prepare", [&](Stream q) { return prepare(plan.math, sums_of_du, q); });
  }

  void* const bias_gradients[3][2] = {
      {wanted.b_l2 ? t.db_l2 : nullptr, wanted.b_r2 ? t.db_r2 : nullptr}, {t.db_l1, nullptr}, {t.db_r1, nullptr}};
  for (int i = 0; i < 3; ++i) {
    const auto& of = plan.sums[i];
    if (of.wanted) end.bias[end.biases++] = {sums[i], {bias_gradients[i][0], bias_gradients[i][1]}, of.channels, of.parts};
  }
  if (end.weights || end.biases) chain.then("finish", [&](Stream q) { return finish(plan.math, end, q); });
  return chain.error();
}

}  // namespace gcn::cuda
