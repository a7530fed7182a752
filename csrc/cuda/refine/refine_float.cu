#include "refine_direct.cuh"
#include "refine_finish.cuh"
#include "refine_tile.cuh"

namespace gcn::cuda {
template int launch_refine_forward<Fp32>(const RefineTile&, int, int, Stream);
template int launch_refine_backward<Fp32>(const RefineTile&, int, int, Stream);
template int launch_refine_finish<float>(const RefineFinish&, Stream);
template int launch_refine_direct_conv<float>(const RefineDirectConv&, Stream);
template int launch_refine_direct_grad<float>(const RefineDirectGrad&, Stream);
}  // namespace gcn::cuda
