// The direct method: every convolution of the block as matrix products over tiles that stay in a core's L2 cache.
//
// Three operations make up the whole block, forward and backward. `taps` is a kernel of k taps along one axis, r = k / 2.
//
//   scatter   u[p + r - t, :] += (X W)[p, t, :]     wide map -> narrow map: the first convolutions. X is a tile of the map
//             [pixels, C], W is [C, k * M]; the product T [pixels, k * M] is shifted and added while it is in L2. x is read
//             once per branch and each of its elements feeds k * M multiply-adds.
//   gather    y[p, :] = sum over sources of (G W)[p, :], G[p, (s, m)] = u[p + s - r, m]     narrow maps -> any map: the
//             second convolutions, their input gradients and the input gradient of the block. G is built in L2 from the
//             narrow maps; both branches share one product, and y is written once.
//   correlate dW[c, (s, m)] = sum_p x[p, c] G[p, (s, m)]     all weight gradients.
//
// Narrow maps are dense [N, H, W, M] buffers of the accumulation type A (float or double). Work is cut into units that
// depend on the sizes only and each output element belongs to one unit: results are the same for any number of threads.
// Zero padding never enters a product in `scatter`. In `gather` it does, as in an im2col convolution, and in `correlate`,
// which puts right what a value of x that is not finite makes of it.
#pragma once

#include <cstdint>
#include <vector>

#include "../map.h"
#include "../matrix.h"

namespace gcn::cpu {

enum class Axis { H, W };

// One first convolution: u [N, H, W, m] = conv(x) with w [C, k * m], columns ordered (tap, m).
template <class A>
struct Scatter {
  Axis axis;
  int64_t k, m;
  const A* w;
  const A* bias;  // [m], or null
  A* u;
};

// A narrow map read through a window of k taps along one axis.
template <class A>
struct Window {
  Axis axis;
  int64_t k, m;
  const A* u;
};

// One weight gradient: dw [C, k * m] from the map x and the window over the narrow map of output gradients.
template <class A>
struct Correlate {
  Map x;
  Window<A> window;
  A* dw;
};

// Both first convolutions of a block over the same map.
template <class A>
void scatter(const Map& x, const std::vector<Scatter<A>>& branches);

// out = bias + the sum of all windows' products with the rows of w [sum of k * m, out.c] that belong to them.
template <class A>
void gather(const std::vector<Window<A>>& windows, const Matrix<const A>& w, const A* bias, const Map& out);

template <class A>
void correlate(const std::vector<Correlate<A>>& gradients);

}  // namespace gcn::cpu
