// Runs a plan: pointers in, launches out. Needs no PyTorch.
#pragma once

#include "kernels.h"
#include "plan.h"

namespace gcn::cuda {

// x and y have the strides that the plan was made for, weights any. u_l and u_r are padded maps
// [N, H, W, padded(M)] of x's type. A null bias is no bias.
struct ForwardTensors {
  const void* x;
  StridedWeights w_l1, w_l2, w_r1, w_r2;
  const void *b_l1, *b_l2, *b_r1, *b_r2;
  void *y, *u_l, *u_r;
};

// Gradients of biases are contiguous; one that was not wanted may be null.
struct BackwardTensors {
  const void *dy, *x, *u_l, *u_r;
  StridedWeights w_l1, w_l2, w_r1, w_r2;
  void* dx;
  StridedWeightGrad dw_l1, dw_l2, dw_r1, dw_r2;
  void *db_l1, *db_l2, *db_r1, *db_r2;
};

// The workspace has plan.workspace_bytes and starts at a multiple of 256 bytes. Returns a cudaError_t as a number, 0 for success.
int run_forward(const ForwardPlan&, const ForwardTensors&, void* workspace, CUstream_st* stream);
int run_backward(const BackwardPlan&, const BackwardTensors&, void* workspace, CUstream_st* stream);

}  // namespace gcn::cuda
