#include "strips_direct.cuh"
#include "strips_finish.cuh"
#include "strips_tile.cuh"

namespace gcn::cuda {
template int launch_strips_tile<float>(const StripsTile&, int64_t, int, int, Stream);
template int launch_strips_finish<float>(const StripsFinish&, Stream);
template int launch_strips_direct_conv<float>(const StripsDirectConv&, Stream);
template int launch_strips_direct_dot<float>(const StripsDirectDot&, Stream);
}  // namespace gcn::cuda
