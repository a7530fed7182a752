// A thread's way through the pixels of a map.
#pragma once

#include "device.cuh"

namespace gcn::cuda {

// Pixels of rows of `cols`: every `step`-th from `first` on. Without a division for each.
struct PixelWalk {
  int row, col;

  GCN_DEVICE PixelWalk(int first, int step, int cols)
      : row(first / cols), col(first % cols), cols(cols), step_rows(step / cols), step_cols(step % cols) {}
  GCN_DEVICE void next() {
    row += step_rows, col += step_cols;
    if (col >= cols) col -= cols, ++row;
  }

 private:
  int cols, step_rows, step_cols;
};

}  // namespace gcn::cuda
