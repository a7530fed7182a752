// Indices taken apart, with as few divisions as can be: they cost a kernel tens of instructions each.
#pragma once

#include "device.cuh"

namespace gcn::cuda {

// The parts of a number whose digits count to different sizes, the last first.
struct Digits {
  int64_t rest;

  GCN_DEVICE int next(int size) {
    const int64_t whole = rest / size;
    const int part = int(rest - whole * size);
    rest = whole;
    return part;
  }
};

// Division by a number that is not known before: a product instead. For numbers whose product with the divisor is below 2^32.
struct Divisor {
  int divisor;
  uint32_t reciprocal;  // 2^32 / divisor, rounded up; of 1 none

  GCN_DEVICE int quotient(int of) const { return divisor == 1 ? of : int(uint64_t(uint32_t(of)) * reciprocal >> 32); }
};

GCN_DEVICE Divisor divisor_of(int number) { return {number, 0xffffffffu / uint32_t(number) + 1}; }

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
