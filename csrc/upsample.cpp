// The schemas of the doubling, declared once for all devices; see csrc/gcn.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gcn_kernels, m) {
  // conv_transpose2d with stride 2 that doubles a map: x [N, C, H, W], weight [C, O, k, k] with k of 4 (padding 1), 3 (padding 1,
  // output_padding 1) or 2 (padding 0); groups of C: weight [C, 1, k, k], O = C. Of its result, height x width (None: all) are
  // kept, or as much as `add` [N, O, H', W'] has, which is added. channels_last: the layout of y.
  m.def(
      "doubling(Tensor x, Tensor weight, Tensor? bias, Tensor? add, SymInt? height, SymInt? width, int groups, "
      "bool channels_last) -> Tensor");
  // -> the gradients of x, weight and bias; bit i of `wanted` asks for the i-th, the others come back empty. That of `add` is dy.
  m.def("doubling_backward(Tensor dy, Tensor x, Tensor weight, int wanted, int groups) -> (Tensor, Tensor, Tensor)");
  // The first of these forms alone, whole; graphs saved by earlier versions call it.
  m.def("upsample(Tensor x, Tensor weight, Tensor? bias, bool channels_last) -> Tensor");
  m.def("upsample_backward(Tensor dy, Tensor x, Tensor weight, int wanted) -> (Tensor, Tensor, Tensor)");
}
