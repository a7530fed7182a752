#include "../first_stage.cuh"

namespace gcn::cuda {
template int launch_first_stage<Half>(int, bool, const FirstStageParams&, int, Stream);
}
