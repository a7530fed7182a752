// The schemas of the GCN block, declared once for all devices. Fake kernels and autograd are attached in Python
// (gcn_kernels/core/operator.py); gcn_kernels/core/library.py compares these schemas with what it expects.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(gcn_kernels, m) {
  // channels_last: the layout of y; cache_weights: whether the weights are likely to be the same in the next call;
  // allow_tf32: whether a GPU may round the factors of float32 products to tf32.
  // -> y [N, O, H, W] and the middle maps u_l and u_r, whose form is the device's own (see gcn_kernels/core/operator.py).
  m.def(
      "gcn(Tensor x, Tensor w_l1, Tensor w_l2, Tensor w_r1, Tensor w_r2, Tensor? b_l1, Tensor? b_l2, Tensor? b_r1, "
      "Tensor? b_r2, bool channels_last, bool cache_weights, bool allow_tf32, str algo) -> (Tensor, Tensor, Tensor)");
  // -> the gradients of x, w_l1, w_l2, w_r1, w_r2, b_l1, b_l2, b_r1, b_r2; bit i of `wanted` asks for the i-th, the others
  // come back empty. The biases are arguments because the gradients depend on them through the middle maps.
  m.def(
      "gcn_backward(Tensor dy, Tensor x, Tensor u_l, Tensor u_r, Tensor w_l1, Tensor w_l2, Tensor w_r1, Tensor w_r2, "
      "Tensor? b_l1, Tensor? b_r1, int wanted, bool allow_tf32, str algo) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");
  // What the CPU kernels would do, as JSON; sizes are n, c, h, w, m_l, m_r, o, k1, k2, k3, k4.
  m.def("cpu_plan(int[] sizes, bool float64, bool spectra_cached) -> str");
  // The same with PyTorch's own convolutions, in this dtype and layout, among the choices; and only whether they are chosen, for
  // inference or for a training step.
  m.def("cpu_plan_with_torch(int[] sizes, str dtype, bool channels_last) -> str");
  m.def("cpu_prefers_torch(int[] sizes, str dtype, bool channels_last, bool training) -> bool");
  // Bytes of weight spectra kept for later calls, after clearing them if asked to.
  m.def("cpu_spectra_cache(bool clear) -> int");
  // What the CUDA kernels would do, as JSON; sizes as above, math is a dtype or "tf32". gpu: multiprocessors, bytes of shared
  // memory that a block and a multiprocessor can have; then 0 for the portable kernels, 1 for those of sm_90a or 2 for those that
  // are faster; then kHz of the clock and of the memory's, bits of the memory's bus and bytes of L2. Empty for an H100 and the
  // portable kernels.
  // Needs no GPU.
  m.def("gpu_plan(int[] sizes, str math, bool channels_last, bool backward, int[] gpu) -> str");
}
