#include "../hopper_first_stage.cuh"

namespace gcn::cuda {
template int launch_hopper_first_stage<BFloat16>(const HopperFirstStage&, int, int, Stream);
template int hopper_first_stage_clusters<BFloat16>(int);
}  // namespace gcn::cuda
