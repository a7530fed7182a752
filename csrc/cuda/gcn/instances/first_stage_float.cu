#include "../first_stage.cuh"

namespace gcn::cuda {
template int launch_first_stage<Fp32>(int, bool, const FirstStageParams&, int, Stream);
}
