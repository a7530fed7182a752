#include "refine_direct.cuh"
#include "refine_finish.cuh"
#include "refine_tile.cuh"

namespace gcn::cuda {
template int launch_refine_forward<BFloat16>(const RefineTile&, int, int, Stream);
template int launch_refine_backward<BFloat16>(const RefineTile&, int, int, Stream);
template int launch_refine_finish<BFloat16>(const RefineFinish&, Stream);
template int launch_refine_direct_conv<BFloat16>(const RefineDirectConv&, Stream);
template int launch_refine_direct_grad<BFloat16>(const RefineDirectGrad&, Stream);
}  // namespace gcn::cuda
