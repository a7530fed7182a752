#include "../line_conv.cuh"
#include "../second_stage_unpacked.cuh"

namespace gcn::cuda {
template int launch_line_conv<Half>(LineTile, const LineConvParams&, int, int, Stream);
template int launch_unpacked_second_stage<Half>(const UnpackedSecondStage&, int, Stream);
}  // namespace gcn::cuda
