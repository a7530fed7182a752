// The schemas of boundary refinement, declared once for all devices; see csrc/gcn.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gcn_kernels, m) {
  // y = x + conv3x3(relu(conv3x3(x))): x [N, C, H, W], w1 [M, C, 3, 3], w2 [C, M, 3, 3], b1 [M], b2 [C] -> y [N, C, H, W];
  // channels_last: the layout of y.
  m.def("refine(Tensor x, Tensor w1, Tensor w2, Tensor? b1, Tensor? b2, bool channels_last) -> Tensor");
  // -> the gradients of x, w1, w2, b1 and b2; bit i of `wanted` asks for the i-th, the others come back empty.
  m.def(
      "refine_backward(Tensor dy, Tensor x, Tensor w1, Tensor w2, Tensor? b1, int wanted) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // The same on a GPU. allow_tf32: whether it may round the factors of float32 products to tf32.
  m.def("cuda_refine(Tensor x, Tensor w1, Tensor w2, Tensor? b1, Tensor? b2, bool channels_last, bool allow_tf32) -> Tensor");
  m.def(
      "cuda_refine_backward(Tensor dy, Tensor x, Tensor w1, Tensor w2, Tensor? b1, int wanted, bool allow_tf32) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
