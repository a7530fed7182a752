#include "../second_stage_grad.cuh"

namespace gcn::cuda {
template int launch_second_stage_grad<Half>(LineTile, const SecondStageGradParams&, int, Stream);
}
