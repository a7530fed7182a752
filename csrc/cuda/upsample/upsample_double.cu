#include "upsample_direct.cuh"
#include "upsample_finish.cuh"
#include "upsample_single.cuh"
#include "upsample_tile.cuh"

namespace gcn::cuda {
template int launch_upsample_forward<double>(const UpsampleTile&, int, int, Stream);
template int launch_upsample_backward<double>(const UpsampleTile&, int, int, Stream);
template int launch_upsample_finish<double>(const UpsampleFinish&, Stream);
template int launch_upsample_single_forward<double>(const UpsampleDirect&, Stream);
template int launch_upsample_single_backward<double>(const UpsampleDirect&, Stream);
template int launch_upsample_direct_forward<double>(const UpsampleDirect&, Stream);
template int launch_upsample_direct_backward<double>(const UpsampleDirect&, Stream);
}  // namespace gcn::cuda
