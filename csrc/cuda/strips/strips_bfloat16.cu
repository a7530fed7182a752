#include "strips_banded.cuh"
#include "strips_direct.cuh"
#include "strips_finish.cuh"
#include "strips_tile.cuh"

namespace gcn::cuda {
template int launch_strips_tile<BFloat16>(const StripsTile&, int64_t, int, int, Stream);
template int launch_strips_banded<BFloat16>(const StripsTile&, int64_t, int, int, Stream);
template int launch_strips_finish<BFloat16>(const StripsFinish&, Stream);
template int launch_strips_direct_conv<BFloat16>(const StripsDirectConv&, Stream);
template int launch_strips_direct_dot<BFloat16>(const StripsDirectDot&, Stream);
}  // namespace gcn::cuda
