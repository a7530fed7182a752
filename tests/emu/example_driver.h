// Runs the example product (example/gemm.cuh) in the emulator. No kernel source is visible here, so that what binds it to Python
// is compiled once, whatever faults are planted in the kernel.
#pragma once

#include <cstdint>

void run_example(const uint16_t* a, const uint16_t* b, float* c, int M, int N, int K, bool bfloat16, bool dependent);
