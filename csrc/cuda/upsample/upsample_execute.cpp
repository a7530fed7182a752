// Runs a plan of the doubling: pointers in, launches out.
#include "../chain.h"
#include "upsample_plan.h"

namespace gcn::cuda {

int run_upsample(const UpsamplePlan& plan, const UpsampleTensors& t, void* workspace, CUstream_st* stream) {
  const UpsampleWanted& wanted = plan.wanted;
  void* const partial = wanted.w ? workspace : nullptr;
  void* const partial_bias = wanted.b ? static_cast<unsigned char*>(workspace) + plan.bias_at : nullptr;
  const int taps = int(plan.sizes.k * plan.sizes.k);
  UpsampleFinish finish = {};
  finish.weight = t.dweight, finish.bias = t.dbias, finish.partial = partial, finish.partial_bias = partial_bias;
  finish.c = int(plan.sizes.c), finish.taps = taps, finish.biases = int(plan.sizes.o);
  Chain chain(stream);
  if (plan.why_direct.empty()) {
    UpsampleTile tile = plan.tile;
    tile.x = t.x, tile.dy = t.dy, tile.add = t.add, tile.out = t.out;
    tile.conv.weight = plan.backward && !wanted.x ? nullptr : t.weight, tile.conv.bias = t.bias;
    tile.partial = partial, tile.partial_bias = partial_bias;
    const auto launch = plan.backward ? upsample_backward : upsample_forward;
    chain.then(plan.backward ? "upsample_backward" : "upsample_forward",
               [&](Stream s) { return launch(plan.math, tile, plan.blocks, plan.shared_bytes, s); });
    finish.parts = int64_t(plan.blocks) * tile.shares, finish.parts_bias = plan.blocks;
    finish.o = tile.o, finish.o_padded = finish.biases_padded = tile.o_padded, finish.c_padded = tile.c_padded;
  } else {
    UpsampleDirect direct = plan.direct;
    direct.x = t.x, direct.dy = t.dy, direct.add = t.add, direct.out = t.out;
    direct.weight = t.weight, direct.bias = t.bias, direct.partial = partial, direct.partial_bias = partial_bias;
    const bool single = plan.sizes.by_itself;
    const auto forward = single ? upsample_single_forward : upsample_direct_forward;
    const auto backward = single ? upsample_single_backward : upsample_direct_backward;
    chain.then(plan.backward ? single ? "upsample_single_backward" : "upsample_direct_backward"
               : single      ? "upsample_single_forward"
                             : "upsample_direct_forward",
               [&](Stream s) { return (plan.backward ? backward : forward)(plan.math, direct, s); });
    finish.parts = finish.parts_bias = direct.parts;
    finish.o = finish.o_padded = single ? 1 : direct.o, finish.c_padded = direct.c, finish.biases_padded = direct.o;
  }
  if (plan.backward && wanted.sums())
    chain.then("upsample_finish", [&](Stream s) { return upsample_finish(plan.math, finish, s); });
  return chain.error();
}

}  // namespace gcn::cuda
