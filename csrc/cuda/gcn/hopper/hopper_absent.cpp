// Stands for the Hopper kernels in a build without compute capability 9.0.
#include "hopper_kernels.h"

namespace gcn::cuda {

constexpr int kNotSupported = 801;  // cudaErrorNotSupported

int hopper_first_stage(Math, const HopperFirstStage&, int, int, Stream) { return kNotSupported; }

int hopper_weight_grad(Math, const HopperWeightGrad&, int, int, Stream) { return kNotSupported; }

int hopper_input_grad(Math, InputGradTile, const HopperInputGrad&, int, int, Stream) { return kNotSupported; }

int hopper_second_stage(Math, int, const HopperSecondStage&, int, int, Stream) { return kNotSupported; }

int hopper_clusters(int) { return 0; }

bool hopper_built() { return false; }

}  // namespace gcn::cuda
