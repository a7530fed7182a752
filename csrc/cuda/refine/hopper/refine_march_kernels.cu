// From a run-time choice of arithmetic to the refinement's kernels for Hopper.
#include "../../device.cuh"
#include "refine_hopper.h"

namespace gcn::cuda {

template <class M>
int launch_refine_march(const RefineMarch&, int blocks, Stream);
extern template int launch_refine_march<Half>(const RefineMarch&, int, Stream);
extern template int launch_refine_march<BFloat16>(const RefineMarch&, int, Stream);

int refine_march_forward(Math math, const RefineMarch& p, int blocks, Stream s) {
  if (math == Math::kHalf) return launch_refine_march<Half>(p, blocks, s);
  if (math == Math::kBFloat16) return launch_refine_march<BFloat16>(p, blocks, s);
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
