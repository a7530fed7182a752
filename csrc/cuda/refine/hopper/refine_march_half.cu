#include "refine_march.cuh"

namespace gcn::cuda {
template int launch_refine_march<Half>(const RefineMarch&, int, Stream);
}
