#include "strips_banded.cuh"

namespace gcn::cuda {
template int launch_strips_banded<Tf32>(const StripsTile&, int64_t, int, int, Stream);
}  // namespace gcn::cuda
