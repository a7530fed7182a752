// Stands for the refinement's kernels for Hopper in a build without compute capability 9.0.
#include "refine_hopper.h"

namespace gcn::cuda {

int refine_march_forward(Math, const RefineMarch&, int, Stream) { return 801; }  // cudaErrorNotSupported

}  // namespace gcn::cuda
