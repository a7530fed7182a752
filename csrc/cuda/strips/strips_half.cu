#include "strips_banded.cuh"
#include "strips_direct.cuh"
#include "strips_finish.cuh"
#include "strips_tile.cuh"

namespace gcn::cuda {
template int launch_strips_tile<Half>(const StripsTile&, int64_t, int, int, Stream);
template int launch_strips_banded<Half>(const StripsTile&, int64_t, int, int, Stream);
template int launch_strips_finish<Half>(const StripsFinish&, Stream);
template int launch_strips_direct_conv<Half>(const StripsDirectConv&, Stream);
template int launch_strips_direct_dot<Half>(const StripsDirectDot&, Stream);
}  // namespace gcn::cuda
