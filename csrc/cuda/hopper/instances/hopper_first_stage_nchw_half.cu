#include "../hopper_first_stage_nchw.cuh"

namespace gcn::cuda {
template int launch_hopper_first_stage_nchw<Half>(int, const HopperFirstStageNchw&, int, int, Stream);
}
