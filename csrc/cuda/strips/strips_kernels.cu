// From a run-time choice of type to the kernels compiled for it, each type in a file of its own.
#include "../with_math.cuh"
#include "strips_banded.cuh"
#include "strips_direct.cuh"
#include "strips_finish.cuh"
#include "strips_tile.cuh"

namespace gcn::cuda {

#define GCN_DECLARE_STRIPS(E)                                                              \
  extern template int launch_strips_tile<E>(const StripsTile&, int64_t, int, int, Stream); \
  extern template int launch_strips_finish<E>(const StripsFinish&, Stream);                \
  extern template int launch_strips_direct_conv<E>(const StripsDirectConv&, Stream);       \
  extern template int launch_strips_direct_dot<E>(const StripsDirectDot&, Stream);
GCN_DECLARE_STRIPS(Half)
GCN_DECLARE_STRIPS(BFloat16)
GCN_DECLARE_STRIPS(float)
GCN_DECLARE_STRIPS(double)
#undef GCN_DECLARE_STRIPS
extern template int launch_strips_banded<Half>(const StripsTile&, int64_t, int, int, Stream);
extern template int launch_strips_banded<BFloat16>(const StripsTile&, int64_t, int, int, Stream);
extern template int launch_strips_banded<Tf32>(const StripsTile&, int64_t, int, int, Stream);

int strips_tile(Math math, const StripsTile& p, int64_t blocks, int threads, int shared_bytes, Stream s) {
  return with_element(math, [&](auto e) { return launch_strips_tile<decltype(e)>(p, blocks, threads, shared_bytes, s); });
}

int strips_banded(Math math, const StripsTile& p, int64_t blocks, int threads, int shared_bytes, Stream s) {
  if (math == Math::kHalf) return launch_strips_banded<Half>(p, blocks, threads, shared_bytes, s);
  if (math == Math::kTf32) return launch_strips_banded<Tf32>(p, blocks, threads, shared_bytes, s);
  return launch_strips_banded<BFloat16>(p, blocks, threads, shared_bytes, s);
}

int strips_finish(Math math, const StripsFinish& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_strips_finish<decltype(e)>(p, s); });
}

int strips_direct_conv(Math math, const StripsDirectConv& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_strips_direct_conv<decltype(e)>(p, s); });
}

int strips_direct_dot(Math math, const StripsDirectDot& p, Stream s) {
  return with_element(math, [&](auto e) { return launch_strips_direct_dot<decltype(e)>(p, s); });
}

}  // namespace gcn::cuda
