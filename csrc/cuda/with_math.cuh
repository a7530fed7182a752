// From a run-time choice of arithmetic to what is compiled for it.
#pragma once

#include "fragment.cuh"
#include "operands.h"

namespace gcn::cuda {

// Calls `run` with the tag of an arithmetic of the tensor cores, of which there is none in float64.
template <class Run>
int with_math(Math math, const Run& run) {
  switch (math) {
    case Math::kHalf:
      return run(Half{});
    case Math::kBFloat16:
      return run(BFloat16{});
    case Math::kTf32:
      return run(Tf32{});
    case Math::kFloat:
      return run(Fp32{});
    case Math::kDouble:
      break;
  }
  return cudaErrorInvalidValue;
}

// Calls it with a stored type.
template <class Run>
int with_element(Math math, const Run& run) {
  if (math == Math::kDouble) return run(double{});
  return with_math(math, [&](auto m) { return run(Element<decltype(m)>{}); });
}

}  // namespace gcn::cuda
