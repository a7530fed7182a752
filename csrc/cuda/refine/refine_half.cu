#include "refine_direct.cuh"
#include "refine_finish.cuh"
#include "refine_tile.cuh"

namespace gcn::cuda {
template int launch_refine_forward<Half>(const RefineTile&, int, int, Stream);
template int launch_refine_backward<Half>(const RefineTile&, int, int, Stream);
template int launch_refine_finish<Half>(const RefineFinish&, Stream);
template int launch_refine_direct_conv<Half>(const RefineDirectConv&, Stream);
template int launch_refine_direct_grad<Half>(const RefineDirectGrad&, Stream);
}  // namespace gcn::cuda
