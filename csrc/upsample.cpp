// The schemas of the doubling, declared once for all devices; see csrc/gcn.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gcn_kernels, m) {
  // conv_transpose2d with stride 2 and padding 1: x [N, C, H, W], weight [C, O, 4, 4], bias [O] -> y [N, O, 2H, 2W];
  // channels_last: the layout of y.
  m.def("upsample(Tensor x, Tensor weight, Tensor? bias, bool channels_last) -> Tensor");
  // -> the gradients of x, weight and bias; bit i of `wanted` asks for the i-th, the others come back empty.
  m.def("upsample_backward(Tensor dy, Tensor x, Tensor weight, int wanted) -> (Tensor, Tensor, Tensor)");
}
