#include "../first_stage_unpacked.cuh"

namespace gcn::cuda {
template int launch_first_stage<Half>(int, bool, const FirstStageParams&, int, Stream);
template int launch_unpacked_first_stage<Half>(int, const UnpackedFirstStage&, int, Stream);
}  // namespace gcn::cuda
