#include "example_driver.h"

#include "gemm.cuh"

void run_example(const uint16_t* a, const uint16_t* b, float* c, int M, int N, int K, bool bfloat16, bool dependent) {
  using namespace gcn::cuda;
  const auto run = bfloat16 ? launch_gemm<BFloat16> : launch_gemm<Half>;
  run(a, b, c, M, N, K, dependent, nullptr);
}
