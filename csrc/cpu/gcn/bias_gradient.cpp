#include "bias_gradient.h"

#include <algorithm>

#include "../parallel.h"

namespace gcn::cpu {
namespace {

// Rows of one image whose columns are added up in one chain.
constexpr int64_t kBand = 32;

// The sum of n numbers by pairs of halves, so that rounding errors do not pile up, and in the widest type there is: gradients of
// float64 shall not show them either.
template <class A>
long double wide_sum_of(const A* x, int64_t n) {
  constexpr int64_t kAtOnce = 8;
  if (n > kAtOnce) return wide_sum_of(x, n / 2) + wide_sum_of(x + n / 2, n - n / 2);
  long double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<long double>(x[i]);
  return sum;
}
template <class A>
double sum_of(const A* x, int64_t n) {
  return static_cast<double>(wide_sum_of(x, n));
}

// What dy adds up to over all images: [o][column] and [o][row].
struct LineSums {
  std::vector<double> columns, rows;
};

template <class A>
LineSums line_sums(const Map& dy) {
  const int64_t bands = (dy.h + kBand - 1) / kBand, o = dy.c, h = dy.h, w = dy.w;
  std::vector<double> by_band(static_cast<size_t>(dy.n * bands * o * w)), by_image(static_cast<size_t>(dy.n * o * h));
  for_each_unit(dy.n * bands, [&](int64_t unit) {
    const int64_t n = unit / bands, begin = unit % bands * kBand;
    std::vector<A> row(static_cast<size_t>(o * w));
    double* columns = by_band.data() + unit * o * w;
    for (int64_t at = begin; at < std::min(h, begin + kBand); ++at) {
      load_tile(dy, {n, at, at + 1, 0, w}, 0, o, row.data(), 1, w);
      for (int64_t i = 0; i < o * w; ++i) columns[i] += static_cast<double>(row[static_cast<size_t>(i)]);
      for (int64_t c = 0; c < o; ++c) by_image[static_cast<size_t>((n * o + c) * h + at)] = sum_of(row.data() + c * w, w);
    }
  });
  LineSums sums{std::vector<double>(static_cast<size_t>(o * w)), std::vector<double>(static_cast<size_t>(o * h))};
  const auto add_up = [](const std::vector<double>& parts, std::vector<double>& total) {
    for (size_t i = 0; i < parts.size(); ++i) total[i % total.size()] += parts[i];
  };
  add_up(by_band, sums.columns);
  add_up(by_image, sums.rows);
  return sums;
}

// values(i) for i in [0, count), rounded to the type of the arithmetic and then to that of the result.
template <class A, class F>
void write_vector(const Tensor& to, int64_t count, const F& value) {
  with_storage_type(to.scalar_type(), [&](auto storage) {
    auto* data = data_of<decltype(storage)>(to);
    for_each_unit(count, [&](int64_t i) { data[i] = static_cast<decltype(storage)>(static_cast<A>(value(i))); });
  });
}

template <class A>
void write_first(const Kernel& w2, const std::vector<double>& sums, int64_t length, const Tensor& to) {
  // Taps further from the middle than the line is long read padding only.
  const int64_t o = w2.map.n, reach = std::min(w2.k / 2, length - 1), taps = 2 * reach + 1, first = w2.k / 2 - reach;
  std::vector<double> read(static_cast<size_t>(o * taps));  // [o][tap]: the sum over what the tap reads inside the map
  for (int64_t c = 0; c < o; ++c) {
    const double* line = sums.data() + c * length;
    double* middle = read.data() + c * taps + reach;
    long double total = 0;
    for (int64_t p = 0; p < length; ++p) {
      total += line[p];
      if (length - 1 - p <= reach) middle[length - 1 - p] = static_cast<double>(total);
    }
    total = 0;
    for (int64_t p = length - 1; p > 0; --p) {
      total += line[p];
      if (p <= reach) middle[-p] = static_cast<double>(total);
    }
  }
  with_storage_type(w2.map.dtype, [&](auto storage) {
    const auto* w = static_cast<const decltype(storage)*>(w2.map.data);
    write_vector<A>(to, w2.map.c, [&](int64_t m) {
      std::vector<double> terms(read);
      for (int64_t c = 0; c < o; ++c) {
        const auto* tap = w + c * w2.map.sn + m * w2.map.sc + first * w2.stride_k;
        for (int64_t t = 0; t < taps; ++t) terms[static_cast<size_t>(c * taps + t)] *= static_cast<double>(tap[t * w2.stride_k]);
      }
      return sum_of(terms.data(), o * taps);
    });
  });
}

template <class A>
void write_all(const Backward& call) {
  const Problem& p = call.problem;
  const LineSums sums = line_sums<A>(input_map(call.dy));
  for (const auto bias : {kBl2, kBr2}) {
    if (!call.wanted(bias)) continue;
    write_vector<A>(call.grads[bias], p.o, [&](int64_t c) { return sum_of(sums.columns.data() + c * p.w, p.w); });
  }
  if (call.wanted(kBl1)) write_first<A>(Kernel(input_map(call.w.l2)), sums.columns, p.w, call.grads[kBl1]);
  if (call.wanted(kBr1)) write_first<A>(Kernel(input_map(call.w.r2)), sums.rows, p.h, call.grads[kBr1]);
}

}  // namespace

void write_bias_gradients(const Backward& call) {
  if (!call.wanted.any(kBl1, kBl2, kBr1, kBr2)) return;
  call.problem.dtype == ScalarType::Double ? write_all<double>(call) : write_all<float>(call);
}

}  // namespace gcn::cpu
