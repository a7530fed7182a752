// Where GPUs have shown kernels faster that are not used everywhere: results, which the state of the sources does not depend on.
#pragma once

#include <array>
#include <cstdint>

namespace gcn::cuda {

// Problems on which a GPU has shown the Hopper kernels right and faster; only there are they used unasked. `pixels` are those of
// all maps of a batch; between what was measured, sizes are taken to be like their neighbours. Each line names the run under
// benchmarks/results that says so, and the state of the sources it was made on, as csrc/build/cuda_sources.py tells it;
// gcn_kernels.info says where that is not the state of a build.
struct MeasuredFaster {
  int64_t channels_from, channels_to;
  int64_t pixels_from, pixels_to;
  bool backward;
  bool tf32;          // of float32; else in 16 bits
  bool second_stage;  // the second stage's kernel, too
  const char* run;
  const char* sources;
};
constexpr std::array<MeasuredFaster, 5> kMeasuredFaster{{
    {256, 1024, 1 << 10, 1 << 18, false, false, true, "h200", "3a16c89c1d75"},
    {1025, 2048, 1 << 12, 1 << 18, false, false, true, "h200", "3a16c89c1d75"},
    {256, 2048, 1 << 10, 1 << 18, true, false, false, "h200", "3537d52ce80d"},
    {2048, 2048, 1 << 8, 1 << 10, true, false, false, "h100", "c8f073f91542"},
    {256, 256, 1 << 18, 1 << 18, false, true, false, "h200", "3537d52ce80d"},
}};
// Of the gradient of x, those lines stand for channels_last. Into NCHW it is used unasked when a run has shown that, too: the one
// of the H200's second run was faster than the portable kernel, and is another one now.
constexpr bool kMeasuredIntoNchw = false;
// Whether a run has shown the second stage faster with windows that are turned (hopper_second_stage.cuh).
constexpr bool kMeasuredTurned = false;
// Of portable kernels: whether a run has shown forward faster without a launch that packs weights (plan_unpacked.cpp). Then it is
// used where it should take less time.
constexpr bool kMeasuredUnpacked = false;

}  // namespace gcn::cuda
