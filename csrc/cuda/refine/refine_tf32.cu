#include "refine_tile.cuh"

namespace gcn::cuda {
template int launch_refine_forward<Tf32>(const RefineTile&, int, int, Stream);
template int launch_refine_backward<Tf32>(const RefineTile&, int, int, Stream);
}  // namespace gcn::cuda
