// Where plans use the Hopper kernels. What each of them does with a problem is in the file of its name beside this one.
#include "hopper_plan.h"

#include <algorithm>

#include "../tiles.h"
#include "hopper_measured.h"
#include "hopper_plan_rules.h"

namespace gcn::cuda {
namespace {

const MeasuredFaster* measured_faster(const Sizes& s, Math math, bool backward) {
  const bool tf32 = math == Math::kTf32;
  if (!tf32 && element_bytes(math) != 2) return nullptr;
  const int64_t pixels = s.n * s.h * s.w;
  const auto found = std::find_if(kMeasuredFaster.begin(), kMeasuredFaster.end(), [&](const MeasuredFaster& m) {
    return m.backward == backward && m.tf32 == tf32 && s.c >= m.channels_from && s.c <= m.channels_to &&
           pixels >= m.pixels_from && pixels <= m.pixels_to;
  });
  return found == kMeasuredFaster.end() ? nullptr : &*found;
}

}  // namespace

WantsHopper wants_hopper(const Sizes& s, Math math, bool backward, const Gpu& gpu, HopperPlan& plan) {
  if (gpu.generation != Generation::kMeasured) {
    const bool asked = gpu.generation == Generation::kHopper;
    return {asked, asked};
  }
  const MeasuredFaster* const found = gpu.hopper ? measured_faster(s, math, backward) : nullptr;
  if (found) plan.measured_sources = found->sources;
  return {found != nullptr, found && found->second_stage};
}

void add_reason(HopperPlan& plan, const std::string& why) {
  if (why.empty() || plan.why_portable.find(why) != std::string::npos) return;
  plan.why_portable += (plan.why_portable.empty() ? "" : "; ") + why;
}

}  // namespace gcn::cuda
