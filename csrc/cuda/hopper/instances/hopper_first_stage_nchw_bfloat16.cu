#include "../hopper_first_stage_nchw.cuh"

namespace gcn::cuda {
template int launch_hopper_first_stage_nchw<BFloat16>(int, const HopperFirstStageNchw&, int, int, Stream);
}
