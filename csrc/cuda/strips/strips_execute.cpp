// Runs a plan of depthwise strips: pointers in, launches out.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <numeric>

#include "../chain.h"
#include "strips_plan.h"

namespace gcn::cuda {
namespace {

using gcn::strips::Buffer, gcn::strips::Dot, gcn::strips::Kernel, gcn::strips::kNone, gcn::strips::Step;

// How many of an image's neighbours are moved at once: where rows, or pixels of the channels of a block, are as many, aligned.
int together_of(const StridedMap& m, const StripsTile& t, size_t element, int most) {
  const bool next = (t.channels_first ? m.stride_c : m.stride_w) == 1;
  const int64_t inner = t.channels_first ? std::gcd(t.c, t.channels) : t.w;
  const int64_t counts[] = {inner, m.stride_n, m.stride_h, t.channels_first ? m.stride_w : m.stride_c};
  for (int count = most; next && count >= kStripsQuad; count /= 2) {
    const auto whole = [&](int64_t i) { return i % count == 0; };
    const bool aligned = reinterpret_cast<uintptr_t>(m.data) % std::min<size_t>(count * element, 16) == 0;
    if (aligned && std::all_of(std::begin(counts), std::end(counts), whole)) return count;
  }
  return 1;
}

int run_tiles(const StripsPlan& plan, const StripsTensors& t, void* workspace, CUstream_st* stream) {
  StripsTile tile = plan.tile;
  for (size_t i = 0; i < t.images.size(); ++i) {
    tile.image[i].data = t.images[i];
    const int bytes = element_bytes(plan.math);
    tile.together[i] = together_of(tile.image[i], tile, size_t(bytes), plan.banded ? kPieceBytes / bytes : kStripsQuad);
  }
  for (size_t i = 0; i < t.weights.size(); ++i) tile.kernel[i].weight = t.weights[i], tile.kernel[i].bias = t.biases[i];
  tile.partial = workspace;
  Chain chain(stream);
  const auto launch = plan.banded ? strips_banded : strips_tile;
  chain.then(plan.banded ? "strips_banded" : "strips_tile",
             [&](Stream s) { return launch(plan.math, tile, plan.units, plan.threads, plan.shared_bytes, s); });
  if (!tile.sums) return chain.error();
  StripsFinish finish = plan.finish;
  finish.partial = workspace;
  for (int i = 0; i < tile.ops; ++i) {
    const StripsOp& op = tile.op[i];
    if (op.kind != StripsKind::kDot) continue;
    const int taps = tile.kernel[op.kernel].kh * tile.kernel[op.kernel].kw;
    if (op.weight) finish.gradient[finish.gradients++] = {t.weight_gradients[op.kernel], op.sums, taps};
    if (op.bias) finish.gradient[finish.gradients++] = {t.bias_gradients[op.kernel], op.sums + (op.weight ? taps : 0), 1};
  }
  chain.then("strips_finish", [&](Stream s) { return strips_finish(plan.math, finish, s); });
  return chain.error();
}

int run_directly(const StripsPlan& plan, const StripsTensors& t, void* workspace, CUstream_st* stream) {
  const int n = int(plan.sizes.n), c = int(plan.sizes.c), h = int(plan.sizes.h), w = int(plan.sizes.w);
  const auto map = [&](int buffer) -> DirectMap {
    if (buffer == kNone) return {};
    const Buffer& b = plan.program.buffers[buffer];
    if (b.image != kNone) {
      StridedMap image = plan.images[b.image];
      image.data = t.images[b.image];
      return {image, true};
    }
    const int64_t pixels = plan.sizes.h * plan.sizes.w;
    return {{static_cast<unsigned char*>(workspace) + plan.map_at[buffer], plan.sizes.c * pixels, pixels, plan.sizes.w, 1},
            false};
  };
  const auto kernel = [&](int i) -> StripsKernel {
    const Kernel& k = plan.program.kernels[i];
    return {t.weights[i], t.biases[i], int(k.kh), int(k.kw), int(k.dh), int(k.dw)};
  };
  Chain chain(stream);
  for (const Step& step : plan.program.steps) {
    const StripsDirectConv p = {map(step.src), map(step.dst), map(step.addend), kernel(step.kernel), step.flipped, n, c, h, w};
    chain.then("strips_direct_conv", [&](Stream s) { return strips_direct_conv(plan.math, p, s); });
  }
  for (const Dot& dot : plan.program.dots) {
    void* const weight = dot.weight ? t.weight_gradients[dot.kernel] : nullptr;
    void* const bias = dot.bias ? t.bias_gradients[dot.kernel] : nullptr;
    const StripsDirectDot p = {map(dot.weight ? dot.x : dot.g), map(dot.g), kernel(dot.kernel), weight, bias, n, c, h, w};
    chain.then("strips_direct_dot", [&](Stream s) { return strips_direct_dot(plan.math, p, s); });
  }
  return chain.error();
}

}  // namespace

int run_strips(const StripsPlan& plan, const StripsTensors& tensors, void* workspace, CUstream_st* stream) {
  if (plan.why_direct.empty()) return run_tiles(plan, tensors, workspace, stream);
  return run_directly(plan, tensors, workspace, stream);
}

}  // namespace gcn::cuda
