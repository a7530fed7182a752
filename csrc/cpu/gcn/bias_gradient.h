// The gradients of all four biases, from dy and the second weights alone: no middle map and no transform takes part.
//
//   db_l2[o] = db_r2[o] = the sum of dy[o] over all pixels
//   db_l1[m] = sum over o, t of w_l2[o, m, t] * (the sum of dy[o] over the columns p with 0 <= p + t - k2 / 2 < W)
//   db_r1[m] = the same with w_r2, k4 and rows
//
// A first bias is the same number everywhere in its middle map, so a tap counts once for every pixel of dy that it reads inside
// the map. Those are the columns up to one end of the map, so their sum is one of the running sums from that end: never a
// difference of two, in which digits would cancel and a NaN would reach taps that do not read its column.
//
// dy is read once. Sums are made in double, in an order that depends on the sizes only.
#pragma once

#include "gcn.h"

namespace gcn::cpu {

// Those of the four that are wanted.
void write_bias_gradients(const Backward& call);

}  // namespace gcn::cpu
