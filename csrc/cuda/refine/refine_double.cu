#include "refine_direct.cuh"

namespace gcn::cuda {
template int launch_refine_direct_conv<double>(const RefineDirectConv&, Stream);
template int launch_refine_direct_grad<double>(const RefineDirectGrad&, Stream);
}  // namespace gcn::cuda
