#include "../hopper_second_stage.cuh"

namespace gcn::cuda {
template int launch_hopper_second_stage<BFloat16>(int, const HopperSecondStage&, int, int, Stream);
}
