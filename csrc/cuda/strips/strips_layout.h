// The maps of a program in shared memory, for one size of tile: how far each reaches, when it is needed, where it lies.
#pragma once

#include <vector>

#include "strips_plan.h"

namespace gcn::cuda {

// A tile's core. It covers the image along an axis where that is all of it, rounded up; then nothing beyond it is ever computed,
// only read as padding.
struct StripsCore {
  int h, w;
  bool covers_h, covers_w;
};

struct StripsLayout {
  std::vector<StripsMap> maps;  // for one channel: `first` counts from the first map, and `plane` is what the map takes
  std::vector<StripsOp> ops;    // in the order they are carried out in; weights and sums are the plan's to place
  int64_t elements = 0;         // of one channel
};

// False if the program has more maps or operations than the kernel has room for.
bool fits_kernel(const gcn::strips::Program& program);
// `fits` is false where a map reaches too far for any shared memory. `banded`: for the tensor cores; `element`: bytes of a map's.
StripsLayout lay_out(const gcn::strips::Program& program, const StripsCore& core, bool banded, int element, bool& fits);

}  // namespace gcn::cuda
