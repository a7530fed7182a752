#include "../hopper_weight_grad.cuh"

namespace gcn::cuda {
template int launch_hopper_weight_grad<BFloat16>(const HopperWeightGrad&, int, int, Stream);
}
