#include "../second_stage_grad.cuh"

namespace gcn::cuda {
template int launch_second_stage_grad<Fp32>(LineTile, const SecondStageGradParams&, int, Stream);
}
