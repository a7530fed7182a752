#include "../hopper_first_stage.cuh"

namespace gcn::cuda {
template int launch_hopper_first_stage<Half>(const HopperFirstStage&, int, int, Stream);
}
