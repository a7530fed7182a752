// From a run-time choice of type to the kernels compiled for it, each type in a file of its own.
#include "../with_math.cuh"
#include "upsample_direct.cuh"
#include "upsample_finish.cuh"
#include "upsample_single.cuh"
#include "upsample_tile.cuh"

namespace gcn::cuda {

#define GCN_DECLARE_UPSAMPLE(E)                                                           \
  extern template int launch_upsample_forward<E>(const UpsampleTile&, int, int, Stream);  \
  extern template int launch_upsample_backward<E>(const UpsampleTile&, int, int, Stream); \
  extern template int launch_upsample_finish<E>(const UpsampleFinish&, Stream);           \
  extern template int launch_upsample_single_forward<E>(const UpsampleDirect&, Stream);   \
  extern template int launch_upsample_single_backward<E>(const UpsampleDirect&, Stream);  \
  extern template int launch_upsample_direct_forward<E>(const UpsampleDirect&, Stream);   \
  extern template int launch_upsample_direct_backward<E>(const UpsampleDirect&, Stream);
GCN_DECLARE_UPSAMPLE(Half)
GCN_DECLARE_UPSAMPLE(BFloat16)
GCN_DECLARE_UPSAMPLE(float)
GCN_DECLARE_UPSAMPLE(double)
#undef GCN_DECLARE_UPSAMPLE

int upsample_forward(Math math, const UpsampleTile& p, int blocks, int shared_bytes, Stream s) {
  return with_element(math, [&](auto e) { return launch_upsample_forward<decltype(e)>(p, blocks, shared_bytes, s); });
}

int upsample_backward(Math math, const UpsampleTile& p, int blocks, int shared_bytes, Stream s) {
  return with_element(math, [&](auto e) { return launch_upsample_backward<decltype(e)>(p, blocks, shared_bytes, s); });
}

int upsample_finish(Math math, const UpsampleFinish& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_upsample_finish<decltype(e)>(p, s); });
}

int upsample_single_forward(Math math, const UpsampleDirect& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_upsample_single_forward<decltype(e)>(p, s); });
}

int upsample_single_backward(Math math, const UpsampleDirect& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_upsample_single_backward<decltype(e)>(p, s); });
}

int upsample_direct_forward(Math math, const UpsampleDirect& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_upsample_direct_forward<decltype(e)>(p, s); });
}

int upsample_direct_backward(Math math, const UpsampleDirect& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_upsample_direct_backward<decltype(e)>(p, s); });
}

}  // namespace gcn::cuda
