// What the sanitised build leaves out: instances of kernels that differ from those for float16 in the conversion of numbers, and
// of the Hopper kernels also the one for tf32. No problem asks for them there; one that did would fail.
#include "device.cuh"
#include "gcn/hopper/hopper_kernels.h"
#include "gcn/kernels.h"

namespace gcn::cuda {

template <class M>
int launch_first_stage(int, bool, const FirstStageParams&, int, Stream);
template <class M>
int launch_line_conv(LineTile, const LineConvParams&, int, int, Stream);
template <class M>
int launch_unpacked_first_stage(int, const UnpackedFirstStage&, int, Stream);
template <class M>
int launch_unpacked_second_stage(const UnpackedSecondStage&, int, Stream);
template <class M>
int launch_weight_grad(bool, int, const WeightGradParams&, int, Stream);
template <class M>
int launch_second_stage_grad(LineTile, const SecondStageGradParams&, int, Stream);
template <class M>
int launch_hopper_first_stage(const HopperFirstStage&, int, int, Stream);
template <class M>
int hopper_first_stage_clusters(int);
template <class M>
int launch_hopper_weight_grad(const HopperWeightGrad&, int, int, Stream);
template <class M>
int launch_hopper_second_stage(int, const HopperSecondStage&, int, int, Stream);
template <class M>
int launch_hopper_input_grad(InputGradTile, const HopperInputGrad&, int, int, Stream);

template <>
int launch_first_stage<BFloat16>(int, bool, const FirstStageParams&, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int launch_line_conv<BFloat16>(LineTile, const LineConvParams&, int, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int launch_unpacked_first_stage<BFloat16>(int, const UnpackedFirstStage&, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int launch_unpacked_second_stage<BFloat16>(const UnpackedSecondStage&, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int launch_weight_grad<BFloat16>(bool, int, const WeightGradParams&, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int launch_second_stage_grad<BFloat16>(LineTile, const SecondStageGradParams&, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int launch_hopper_first_stage<BFloat16>(const HopperFirstStage&, int, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int launch_hopper_first_stage<Tf32>(const HopperFirstStage&, int, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int hopper_first_stage_clusters<BFloat16>(int) {
  return 1;
}
template <>
int launch_hopper_weight_grad<BFloat16>(const HopperWeightGrad&, int, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int launch_hopper_input_grad<BFloat16>(InputGradTile, const HopperInputGrad&, int, int, Stream) {
  return cudaErrorInvalidValue;
}
template <>
int launch_hopper_second_stage<BFloat16>(int, const HopperSecondStage&, int, int, Stream) {
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
