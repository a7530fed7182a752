// What plan.cpp puts together: a plan for each kernel, and what its launch says of itself.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "cost.h"
#include "plan.h"
#include "tiles.h"

namespace gcn::cuda {

// A size that the tensor core kernels do not take; what() says why.
struct TooLarge : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline int piece_elements(Math math) { return kPieceBytes / element_bytes(math); }
inline double fma_per_clock(Math math, const Gpu& gpu) {
  return math == Math::kTf32 ? gpu.fma_16bit / 2 : math == Math::kFloat ? gpu.fma_16bit / 6 : gpu.fma_16bit;
}
inline void require_shared(const char* kernel, int64_t bytes, const Gpu& gpu) {
  if (bytes > gpu.shared_per_block) {
    throw TooLarge(std::string(kernel) + " would need " + std::to_string(bytes) + " bytes of shared memory, the GPU has " +
                   std::to_string(gpu.shared_per_block));
  }
}

// First stage.
FirstStagePlan plan_first_stage(const Sizes& s, Math math, const SourcePlan& source, const Gpu& gpu);
void note_first_stage(Plan& plan, const FirstStagePlan& f, const Traffic& traffic, Math math, const Gpu& gpu);

// What a launch's blocks cost, of so many splits of the channels.
double first_stage_seconds(const FirstStagePlan& f, int splits, Math math, const Gpu& gpu);
double first_stage_flops(const FirstStagePlan& f, Math math);

// Forward without a launch that packs weights; or why not.
std::string plan_unpacked(const Sizes&, Math, const SourcePlan&, const LineConvPlan& second, const Gpu&, UnpackedPlan&);
void note_unpacked(Plan&, const UnpackedPlan&, Math, const Gpu&);

// Line convolutions. Jobs of one launch have the same tile.
LineTile choose_line_tile(const Sizes& s, Math math, const std::vector<LineConvPlan::Term>& terms, int64_t outputs,
                          const Strides& out, int jobs, const Gpu& gpu);
LineConvPlan plan_line_conv(const Sizes& s, Math math, LineTile tile, const std::vector<LineConvPlan::Term>& terms,
                            int64_t outputs, int64_t outputs_written, const Strides& out, bool out_aligned, const Gpu& gpu);
// In which order a tile's outputs are stored, and whether in whole pieces.
void choose_stores(LineConvPlan&, const Sizes&, Math, bool out_aligned);
LaunchWork line_conv_work(const LineConvPlan* const* jobs, int count, const Sizes& s, Math math, const Gpu& gpu);
void note_line_conv(Plan& plan, const char* name, const LineConvPlan* const* jobs, int count, Math math, const Gpu& gpu);

// Weight gradients. `beside`: what else is in the launch of narrow ones.
WeightGradPlan plan_weight_grad(const Sizes& s, Math math, int64_t channels, bool narrow, bool channels_last,
                                const Taps (&taps)[2], const int64_t (&b_channels)[2], const bool (&wanted)[2],
                                const LaunchWork& beside, const Gpu& gpu);
LaunchWork weight_grad_work(const WeightGradPlan& g, const Traffic& read, const Sizes& s, Math math, const Gpu& gpu);
void note_weight_grad(Plan& plan, const char* name, const WeightGradPlan& g, const Traffic& read, Math math, const Gpu& gpu);

}  // namespace gcn::cuda
