#include "refine_march.cuh"

namespace gcn::cuda {
template int launch_refine_march<BFloat16>(const RefineMarch&, int, Stream);
}
