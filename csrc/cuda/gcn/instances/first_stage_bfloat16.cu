#include "../first_stage_unpacked.cuh"

namespace gcn::cuda {
template int launch_first_stage<BFloat16>(int, bool, const FirstStageParams&, int, Stream);
template int launch_unpacked_first_stage<BFloat16>(int, const UnpackedFirstStage&, int, Stream);
}  // namespace gcn::cuda
