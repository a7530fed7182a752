#include "../hopper_first_stage.cuh"

namespace gcn::cuda {
template int launch_hopper_first_stage<Tf32>(const HopperFirstStage&, int, int, Stream);
}
