#include "strips_direct.cuh"
#include "strips_finish.cuh"
#include "strips_tile.cuh"

namespace gcn::cuda {
template int launch_strips_tile<double>(const StripsTile&, int64_t, int, int, Stream);
template int launch_strips_finish<double>(const StripsFinish&, Stream);
template int launch_strips_direct_conv<double>(const StripsDirectConv&, Stream);
template int launch_strips_direct_dot<double>(const StripsDirectDot&, Stream);
}  // namespace gcn::cuda
