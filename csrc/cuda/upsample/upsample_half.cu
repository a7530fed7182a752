#include "upsample_direct.cuh"
#include "upsample_finish.cuh"
#include "upsample_single.cuh"
#include "upsample_tile.cuh"

namespace gcn::cuda {
template int launch_upsample_forward<Half>(const UpsampleTile&, int, int, Stream);
template int launch_upsample_backward<Half>(const UpsampleTile&, int, int, Stream);
template int launch_upsample_finish<Half>(const UpsampleFinish&, Stream);
template int launch_upsample_single_forward<Half>(const UpsampleDirect&, Stream);
template int launch_upsample_single_backward<Half>(const UpsampleDirect&, Stream);
template int launch_upsample_direct_forward<Half>(const UpsampleDirect&, Stream);
template int launch_upsample_direct_backward<Half>(const UpsampleDirect&, Stream);
}  // namespace gcn::cuda
