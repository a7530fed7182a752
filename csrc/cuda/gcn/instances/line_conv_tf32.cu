#include "../line_conv.cuh"

namespace gcn::cuda {
template int launch_line_conv<Tf32>(LineTile, const LineConvParams&, int, int, Stream);
}
