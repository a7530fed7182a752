#include "../weight_grad.cuh"

namespace gcn::cuda {
template int launch_weight_grad<BFloat16>(bool, int, const WeightGradParams&, int, Stream);
}
