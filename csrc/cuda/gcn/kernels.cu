// From a run-time choice of arithmetic to the kernels compiled for it. The three large ones are compiled in instances/, a file
// for each arithmetic, so that they compile side by side.
#include "../with_math.cuh"
#include "combine.cuh"
#include "direct.cuh"
#include "finish.cuh"
#include "first_stage_unpacked.cuh"
#include "line_conv.cuh"
#include "prepare.cuh"
#include "second_stage_grad.cuh"
#include "second_stage_unpacked.cuh"
#include "weight_grad.cuh"

namespace gcn::cuda {

#define GCN_DECLARE_INSTANCES(M)                                                              \
  extern template int launch_first_stage<M>(int, bool, const FirstStageParams&, int, Stream); \
  extern template int launch_line_conv<M>(LineTile, const LineConvParams&, int, int, Stream); \
  extern template int launch_weight_grad<M>(bool, int, const WeightGradParams&, int, Stream); \
  extern template int launch_second_stage_grad<M>(LineTile, const SecondStageGradParams&, int, Stream);
GCN_DECLARE_INSTANCES(Half)
GCN_DECLARE_INSTANCES(BFloat16)
GCN_DECLARE_INSTANCES(Tf32)
GCN_DECLARE_INSTANCES(Fp32)
#undef GCN_DECLARE_INSTANCES
#define GCN_DECLARE_INSTANCES(M)                                                                   \
  extern template int launch_unpacked_first_stage<M>(int, const UnpackedFirstStage&, int, Stream); \
  extern template int launch_unpacked_second_stage<M>(const UnpackedSecondStage&, int, Stream);
GCN_DECLARE_INSTANCES(Half)
GCN_DECLARE_INSTANCES(BFloat16)
#undef GCN_DECLARE_INSTANCES

int prepare(Math math, const PrepareParams& p, Stream s) {
  if (math == Math::kDouble) return launch_prepare<double>(p, s);
  return with_math(math, [&](auto m) { return launch_prepare<decltype(m)>(p, s); });
}

int first_stage(Math math, int column_blocks, bool channels_last, const FirstStageParams& p, int shared_bytes, Stream s) {
  return with_math(math,
                   [&](auto m) { return launch_first_stage<decltype(m)>(column_blocks, channels_last, p, shared_bytes, s); });
}

int clear(void* to, size_t bytes, Stream s) { return clear_memory(to, bytes, s.stream); }

int unpacked_first_stage(Math math, int column_blocks, const UnpackedFirstStage& p, int shared_bytes, Stream s) {
  if (math == Math::kHalf) return launch_unpacked_first_stage<Half>(column_blocks, p, shared_bytes, s);
  if (math == Math::kBFloat16) return launch_unpacked_first_stage<BFloat16>(column_blocks, p, shared_bytes, s);
  return cudaErrorInvalidValue;
}

int unpacked_second_stage(Math math, const UnpackedSecondStage& p, int shared_bytes, Stream s) {
  if (math == Math::kHalf) return launch_unpacked_second_stage<Half>(p, shared_bytes, s);
  if (math == Math::kBFloat16) return launch_unpacked_second_stage<BFloat16>(p, shared_bytes, s);
  return cudaErrorInvalidValue;
}

int combine(Math math, const CombineParams& p, Stream s) {
  return with_math(math, [&](auto m) { return launch_combine<Element<decltype(m)>>(p, s); });
}

int line_conv(Math math, LineTile tile, const LineConvParams& p, int jobs, int shared_bytes, Stream s) {
  return with_math(math, [&](auto m) { return launch_line_conv<decltype(m)>(tile, p, jobs, shared_bytes, s); });
}

int weight_grad(Math math, bool channels_last, int column_blocks, const WeightGradParams& p, int shared_bytes, Stream s) {
  return with_math(math,
                   [&](auto m) { return launch_weight_grad<decltype(m)>(channels_last, column_blocks, p, shared_bytes, s); });
}

int second_stage_grad(Math math, LineTile tile, const SecondStageGradParams& p, int shared_bytes, Stream s) {
  return with_math(math, [&](auto m) { return launch_second_stage_grad<decltype(m)>(tile, p, shared_bytes, s); });
}

int finish(Math math, const FinishParams& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_finish<decltype(e)>(p, s); });
}

int direct_conv(Math math, const DirectConv& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_direct_conv<decltype(e)>(p, s); });
}

int direct_weight_grad(Math math, const DirectWeightGrad& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_direct_weight_grad<decltype(e)>(p, s); });
}

}  // namespace gcn::cuda
