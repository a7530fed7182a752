#include "../weight_grad.cuh"

namespace gcn::cuda {
template int launch_weight_grad<Tf32>(bool, int, const WeightGradParams&, int, Stream);
}
