#include "../weight_grad.cuh"

namespace gcn::cuda {
template int launch_weight_grad<Fp32>(bool, int, const WeightGradParams&, int, Stream);
}
