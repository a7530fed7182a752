// The dtypes that the operators take.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include "checks.h"

namespace gcn {

inline void check_dtype(torch::headeronly::ScalarType dtype) {
  using torch::headeronly::ScalarType;
  check(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
        "x: expected float32, float64, bfloat16 or float16");
}

}  // namespace gcn
