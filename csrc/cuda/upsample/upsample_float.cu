#include "upsample_direct.cuh"
#include "upsample_finish.cuh"
#include "upsample_single.cuh"
#include "upsample_tile.cuh"

namespace gcn::cuda {
template int launch_upsample_forward<float>(const UpsampleTile&, int, int, Stream);
template int launch_upsample_backward<float>(const UpsampleTile&, int, int, Stream);
template int launch_upsample_finish<float>(const UpsampleFinish&, Stream);
template int launch_upsample_single_forward<float>(const UpsampleDirect&, Stream);
template int launch_upsample_single_backward<float>(const UpsampleDirect&, Stream);
template int launch_upsample_direct_forward<float>(const UpsampleDirect&, Stream);
template int launch_upsample_direct_backward<float>(const UpsampleDirect&, Stream);
}  // namespace gcn::cuda
