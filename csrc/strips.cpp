// The schemas of the depthwise strips, declared once for all devices; see csrc/gcn.cpp. A form (see csrc/strips/program.h) is
// given as
//   lengths     steps of each branch
//   dilations   dh, dw of every step, the stem's first, then branch by branch
//   biased      1 for every step that has a bias; `biases` holds those there are, in the same order
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gcn_kernels, m) {
  // channels_last: the layout of y. -> y [N, C, H, W]
  m.def(
      "strips(Tensor x, Tensor[] weights, Tensor[] biases, int[] lengths, int[] dilations, int[] biased, bool stem, bool skip, "
      "bool channels_last) -> Tensor");
  // -> the gradients of x, of the weights and of the biases in `biases`. Bit i of `wanted` asks for the i-th, counted in this
  // order; the others come back empty.
  m.def(
      "strips_backward(Tensor dy, Tensor x, Tensor[] weights, Tensor[] biases, int wanted, int[] lengths, int[] dilations, "
      "int[] biased, bool stem, bool skip) -> (Tensor, Tensor[], Tensor[])");
  // The same on a GPU; allow_tf32: whether products of float32 may be made in tf32.
  m.def(
      "cuda_strips(Tensor x, Tensor[] weights, Tensor[] biases, int[] lengths, int[] dilations, int[] biased, bool stem, "
      "bool skip, bool channels_last, bool allow_tf32) -> Tensor");
  m.def(
      "cuda_strips_backward(Tensor dy, Tensor x, Tensor[] weights, Tensor[] biases, int wanted, int[] lengths, int[] dilations, "
      "int[] biased, bool stem, bool skip, bool allow_tf32) -> (Tensor, Tensor[], Tensor[])");
}
