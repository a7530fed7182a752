// From a run-time choice of arithmetic to the kernels compiled for it, each in a file of its own.
#include "../with_math.cuh"
#include "refine_direct.cuh"
#include "refine_finish.cuh"
#include "refine_tile.cuh"

namespace gcn::cuda {

#define GCN_DECLARE_REFINE_PRODUCTS(M)                                               \
  extern template int launch_refine_forward<M>(const RefineTile&, int, int, Stream); \
  extern template int launch_refine_backward<M>(const RefineTile&, int, int, Stream);
#define GCN_DECLARE_REFINE_DIRECT(E)                                                 \
  extern template int launch_refine_direct_conv<E>(const RefineDirectConv&, Stream); \
  extern template int launch_refine_direct_grad<E>(const RefineDirectGrad&, Stream);
GCN_DECLARE_REFINE_PRODUCTS(Half)
GCN_DECLARE_REFINE_PRODUCTS(BFloat16)
GCN_DECLARE_REFINE_PRODUCTS(Tf32)
GCN_DECLARE_REFINE_PRODUCTS(Fp32)
extern template int launch_refine_finish<Half>(const RefineFinish&, Stream);
extern template int launch_refine_finish<BFloat16>(const RefineFinish&, Stream);
extern template int launch_refine_finish<float>(const RefineFinish&, Stream);
GCN_DECLARE_REFINE_DIRECT(Half)
GCN_DECLARE_REFINE_DIRECT(BFloat16)
GCN_DECLARE_REFINE_DIRECT(float)
GCN_DECLARE_REFINE_DIRECT(double)
#undef GCN_DECLARE_REFINE_PRODUCTS
#undef GCN_DECLARE_REFINE_DIRECT

int refine_forward(Math math, const RefineTile& p, int blocks, int shared_bytes, Stream s) {
  return with_math(math, [&](auto m) { return launch_refine_forward<decltype(m)>(p, blocks, shared_bytes, s); });
}

int refine_backward(Math math, const RefineTile& p, int blocks, int shared_bytes, Stream s) {
  return with_math(math, [&](auto m) { return launch_refine_backward<decltype(m)>(p, blocks, shared_bytes, s); });
}

int refine_finish(Math math, const RefineFinish& p, Stream s) {
  return with_math(math, [&](auto m) { return launch_refine_finish<Element<decltype(m)>>(p, s); });
}

int refine_direct_conv(Math math, const RefineDirectConv& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_refine_direct_conv<decltype(e)>(p, s); });
}

int refine_direct_grad(Math math, const RefineDirectGrad& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_refine_direct_grad<decltype(e)>(p, s); });
}

}  // namespace gcn::cuda
