// Runs a plan of boundary refinement: pointers in, launches out.
#include "../chain.h"
#include "refine_plan.h"

namespace gcn::cuda {
namespace {

// The gradients of w1 and b1 are sums of du and x, those of w2 and b2 of dy and u.
void point_at_gradients(RefineGrad (&grad)[2], const RefineTensors& t) {
  grad[0].weight = t.dw1, grad[0].bias = t.db1, grad[1].weight = t.dw2, grad[1].bias = t.db2;
}

int run_tiles(const RefinePlan& plan, const RefineTensors& t, void* workspace, CUstream_st* stream) {
  RefineTile tile = plan.tile;
  tile.maps[0] = t.x, tile.maps[1] = t.dy, tile.out = t.out;
  tile.conv[0].weight = t.w1, tile.conv[0].bias = t.b1;
  if (!plan.backward || tile.wants_du) tile.conv[1].weight = t.w2;
  if (!plan.backward) tile.conv[1].bias = t.b2;
  if (tile.wants_dx) tile.conv[2].weight = t.w1;
  tile.partial = static_cast<float*>(workspace);
  point_at_gradients(tile.grad, t);
  Chain chain(stream);
  if (!plan.backward) {
    chain.then("refine_forward", [&](Stream s) { return refine_forward(plan.math, tile, plan.blocks, plan.shared_bytes, s); });
    return chain.error();
  }
  chain.then("refine_backward", [&](Stream s) { return refine_backward(plan.math, tile, plan.blocks, plan.shared_bytes, s); });
  if (!plan.wanted.sums()) return chain.error();
  const RefineFinish finish = {{tile.grad[0], tile.grad[1]}, tile.partial, tile.units, plan.blocks};
  chain.then("refine_finish", [&](Stream s) { return refine_finish(plan.math, finish, s); });
  return chain.error();
}

int run_march(const RefinePlan& plan, const RefineTensors& t, CUstream_st* stream) {
  RefineMarch march = plan.march;
  march.x = t.x, march.out = t.out;
  march.conv[0].weight = t.w1, march.conv[0].bias = t.b1;
  march.conv[1].weight = t.w2, march.conv[1].bias = t.b2;
  Chain chain(stream);
  chain.then("refine_march", [&](Stream s) { return refine_march_forward(plan.math, march, plan.blocks, s); });
  return chain.error();
}

int run_directly(const RefinePlan& plan, const RefineTensors& t, void* workspace, CUstream_st* stream) {
  const RefineSizes& sizes = plan.sizes;
  const int n = int(sizes.n), h = int(sizes.h), w = int(sizes.w);
  const int64_t pixels = sizes.h * sizes.w, bytes = sizes.n * sizes.m * pixels * (plan.math == Math::kDouble ? 8 : 4);
  const auto between = [&](int64_t which) -> DirectMap {
    const int64_t at = which * ((bytes + 255) / 256 * 256);
    return {{static_cast<unsigned char*>(workspace) + at, sizes.m * pixels, pixels, sizes.w, 1}, false};
  };
  const DirectMap x = {t.x, true}, dy = {t.dy, true}, out = {t.out, true}, u = between(0), du = between(1), none = {};
  const auto conv = [&](int which, const void* weight, const void* bias) {
    RefineConv found = plan.tile.conv[which];
    found.weight = weight, found.bias = bias;
    return found;
  };
  Chain chain(stream);
  const auto convolve = [&](const RefineDirectConv& p) {
    chain.then("refine_direct_conv", [&](Stream s) { return refine_direct_conv(plan.math, p, s); });
  };
  convolve({x, u, none, none, conv(0, t.w1, t.b1), true, n, h, w});
  if (!plan.backward) {
    convolve({u, out, x, none, conv(1, t.w2, t.b2), false, n, h, w});
    return chain.error();
  }
  if (plan.wanted.du()) convolve({dy, du, none, u, conv(1, t.w2, nullptr), false, n, h, w});
  if (plan.wanted.x) convolve({du, out, dy, none, conv(2, t.w1, nullptr), false, n, h, w});
  RefineGrad grad[2] = {plan.tile.grad[0], plan.tile.grad[1]};
  point_at_gradients(grad, t);
  const auto add_up = [&](const RefineDirectGrad& p) {
    if (!p.grad.weight && !p.grad.bias) return;
    chain.then("refine_direct_grad", [&](Stream s) { return refine_direct_grad(plan.math, p, s); });
  };
  add_up({du, x, grad[0], n, h, w});
  add_up({dy, u, grad[1], n, h, w});
  return chain.error();
}

}  // namespace

int run_refine(const RefinePlan& plan, const RefineTensors& tensors, void* workspace, CUstream_st* stream) {
  if (!plan.backward && plan.why_portable.empty()) return run_march(plan, tensors, stream);
  if (plan.why_direct.empty()) return run_tiles(plan, tensors, workspace, stream);
  return run_directly(plan, tensors, workspace, stream);
}

}  // namespace gcn::cuda
