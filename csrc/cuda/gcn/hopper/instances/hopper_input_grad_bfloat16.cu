#include "../hopper_input_grad.cuh"

namespace gcn::cuda {
template int launch_hopper_input_grad<BFloat16>(InputGradTile, const HopperInputGrad&, int, int, Stream);
}
