// What the CUDA kernels would do with a problem, as JSON. Part of the library _C: a plan needs no GPU.
#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "../../gcn/problem.h"
#include "../gpu_rates.h"
#include "plan.h"

namespace gcn::cuda {
namespace {

Math math_named(const std::string& name) {
  if (name == "float16") return Math::kHalf;
  if (name == "bfloat16") return Math::kBFloat16;
  if (name == "tf32") return Math::kTf32;
  if (name == "float32") return Math::kFloat;
  check(name == "float64", "math: expected float16, bfloat16, tf32, float32 or float64, got ", name);
  return Math::kDouble;
}

Strides dense(int64_t channels, int64_t h, int64_t w, bool channels_last) {
  return channels_last ? Strides{h * w * channels, 1, w * channels, channels} : Strides{channels * h * w, h * w, w, 1};
}

// sizes: n, c, h, w, m_l, m_r, o, k1, k2, k3, k4. gpu: see csrc/gcn.cpp.
std::string plan(const std::vector<int64_t> s, const std::string math_name, bool channels_last, bool backward,
                 const std::vector<int64_t> given) {
  problem_of(s, ScalarType::Float);  // checks them
  for (const int64_t size : s) check(size > 0 && size < (int64_t{1} << 31), "sizes: expected 1 ... 2^31 - 1, got ", size);
  check(given.empty() || given.size() == 3 || given.size() == 4 || given.size() == 8,
        "gpu: expected multiprocessors and bytes of shared memory per block and per multiprocessor; then 1 for the kernels of "
        "sm_90a, or 2 for them where they are faster; then kHz of the clock and of the memory's, bits of its bus, bytes of L2");
  Gpu gpu;
  if (!given.empty()) {
    gpu.multiprocessors = static_cast<int>(given[0]);
    gpu.shared_per_block = static_cast<int>(given[1]), gpu.shared_per_multiprocessor = static_cast<int>(given[2]);
  }
  if (given.size() == 8) apply(DeviceFacts{given[4], given[5], given[6], given[7]}, gpu);
  if (given.size() >= 4 && given[3]) {
    gpu.hopper = true;
    gpu.generation = given[3] == 1 ? Generation::kHopper : Generation::kMeasured;
  }
  if (const char* const overrides = std::getenv("GCN_KERNELS_PLAN")) gpu.overrides = read_overrides(overrides);
  const Sizes sizes{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10]};
  const Math math = math_named(math_name);
  const MapLayout x{dense(sizes.c, sizes.h, sizes.w, channels_last), true};
  const MapLayout y{dense(sizes.o, sizes.h, sizes.w, channels_last), true};
  if (!backward) return describe(plan_forward(sizes, math, x, y.strides, y.aligned, channels_last && sizes.c % kOctet == 0, gpu));
  constexpr Wanted kEverything{true, true, true, true, true, true, true, true, true};
  return describe(plan_backward(sizes, math, x, y.strides, x.strides, kEverything, gpu));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CompositeExplicitAutograd, m) { m.impl("gpu_plan", TORCH_BOX(&plan)); }

}  // namespace gcn::cuda
