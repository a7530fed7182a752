#include "upsample_direct.cuh"
#include "upsample_finish.cuh"
#include "upsample_single.cuh"
#include "upsample_tile.cuh"

namespace gcn::cuda {
template int launch_upsample_forward<BFloat16>(const UpsampleTile&, int, int, Stream);
template int launch_upsample_backward<BFloat16>(const UpsampleTile&, int, int, Stream);
template int launch_upsample_finish<BFloat16>(const UpsampleFinish&, Stream);
template int launch_upsample_single_forward<BFloat16>(const UpsampleDirect&, Stream);
template int launch_upsample_single_backward<BFloat16>(const UpsampleDirect&, Stream);
template int launch_upsample_direct_forward<BFloat16>(const UpsampleDirect&, Stream);
template int launch_upsample_direct_backward<BFloat16>(const UpsampleDirect&, Stream);
}  // namespace gcn::cuda
