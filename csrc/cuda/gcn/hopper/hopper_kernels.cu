// From a run-time choice of arithmetic to the Hopper kernels compiled for it, in instances/.
#include "hopper_device.cuh"
#include "hopper_kernels.h"

namespace gcn::cuda {

template <class M>
int launch_hopper_first_stage(const HopperFirstStage&, int blocks, int shared_bytes, Stream);
extern template int launch_hopper_first_stage<Half>(const HopperFirstStage&, int, int, Stream);
extern template int launch_hopper_first_stage<BFloat16>(const HopperFirstStage&, int, int, Stream);
extern template int launch_hopper_first_stage<Tf32>(const HopperFirstStage&, int, int, Stream);

template <class M>
int hopper_first_stage_clusters(int blocks);
extern template int hopper_first_stage_clusters<BFloat16>(int);

template <class M>
int launch_hopper_weight_grad(const HopperWeightGrad&, int blocks, int shared_bytes, Stream);
extern template int launch_hopper_weight_grad<Half>(const HopperWeightGrad&, int, int, Stream);
extern template int launch_hopper_weight_grad<BFloat16>(const HopperWeightGrad&, int, int, Stream);

template <class M>
int launch_hopper_input_grad(InputGradTile, const HopperInputGrad&, int blocks, int shared_bytes, Stream);
extern template int launch_hopper_input_grad<Half>(InputGradTile, const HopperInputGrad&, int, int, Stream);
extern template int launch_hopper_input_grad<BFloat16>(InputGradTile, const HopperInputGrad&, int, int, Stream);

template <class M>
int launch_hopper_second_stage(int patch_pixels, const HopperSecondStage&, int blocks, int shared_bytes, Stream);
extern template int launch_hopper_second_stage<Half>(int, const HopperSecondStage&, int, int, Stream);
extern template int launch_hopper_second_stage<BFloat16>(int, const HopperSecondStage&, int, int, Stream);

int hopper_first_stage(Math math, const HopperFirstStage& p, int blocks, int shared_bytes, Stream s) {
  if (math == Math::kHalf) return launch_hopper_first_stage<Half>(p, blocks, shared_bytes, s);
  if (math == Math::kBFloat16) return launch_hopper_first_stage<BFloat16>(p, blocks, shared_bytes, s);
  if (math == Math::kTf32) return launch_hopper_first_stage<Tf32>(p, blocks, shared_bytes, s);
  return cudaErrorInvalidValue;
}

int hopper_weight_grad(Math math, const HopperWeightGrad& p, int blocks, int shared_bytes, Stream s) {
  if (math == Math::kHalf) return launch_hopper_weight_grad<Half>(p, blocks, shared_bytes, s);
  if (math == Math::kBFloat16) return launch_hopper_weight_grad<BFloat16>(p, blocks, shared_bytes, s);
  return cudaErrorInvalidValue;
}

int hopper_input_grad(Math math, InputGradTile tile, const HopperInputGrad& p, int blocks, int shared_bytes, Stream s) {
  if (math == Math::kHalf) return launch_hopper_input_grad<Half>(tile, p, blocks, shared_bytes, s);
  if (math == Math::kBFloat16) return launch_hopper_input_grad<BFloat16>(tile, p, blocks, shared_bytes, s);
  return cudaErrorInvalidValue;
}

int hopper_second_stage(Math math, int patch_pixels, const HopperSecondStage& p, int blocks, int shared_bytes, Stream s) {
  if (math == Math::kHalf) return launch_hopper_second_stage<Half>(patch_pixels, p, blocks, shared_bytes, s);
  if (math == Math::kBFloat16) return launch_hopper_second_stage<BFloat16>(patch_pixels, p, blocks, shared_bytes, s);
  return cudaErrorInvalidValue;
}

int hopper_clusters(int blocks) { return hopper_first_stage_clusters<BFloat16>(blocks); }

bool hopper_built() { return true; }

}  // namespace gcn::cuda
