// The operator by the direct method: arrange the weights as matrices, then scatter, gather and correlate (direct.h).
#include <memory>

#include "../parallel.h"
#include "bias_gradient.h"
#include "direct.h"
#include "gcn.h"

namespace gcn::cpu {
namespace {

enum class Taps { kInOrder, kFlipped };

// [in, k, out]: the columns of the first convolutions' product, (tap, out). Flipped and read as its transpose, it carries
// a convolution's input gradient. Rows are `row` elements apart, so that both branches can share a matrix.
template <class A>
void arrange(const Kernel& w, Taps taps, A* to, int64_t row) {
  const int64_t out = w.map.n, in = w.map.c;
  with_storage_type(w.map.dtype, [&](auto storage) {
    const auto* data = static_cast<const decltype(storage)*>(w.map.data);
    torch::stable::parallel_for(0, in, 256, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        for (int64_t o = 0; o < out; ++o)
          for (int64_t t = 0; t < w.k; ++t) {
            const int64_t tap = taps == Taps::kFlipped ? w.k - 1 - t : t;
            to[c * row + t * out + o] = static_cast<A>(data[o * w.map.sn + c * w.map.sc + tap * w.stride_k]);
          }
    });
  });
}

// [k, in, out]: the rows (tap, in) of the second convolutions' product.
template <class A>
void arrange_by_tap(const Kernel& w, A* to) {
  const int64_t out = w.map.n, in = w.map.c;
  with_storage_type(w.map.dtype, [&](auto storage) {
    const auto* data = static_cast<const decltype(storage)*>(w.map.data);
    for (int64_t t = 0; t < w.k; ++t)
      for (int64_t c = 0; c < in; ++c)
        for (int64_t o = 0; o < out; ++o)
          to[(t * in + c) * out + o] = static_cast<A>(data[o * w.map.sn + c * w.map.sc + t * w.stride_k]);
  });
}

// The inverse of arrange() with flipped taps: a weight gradient [in, k, out] into the tensor's own layout and dtype.
template <class A>
void write_weight_gradient(const A* from, const Kernel& w) {
  const int64_t out = w.map.n, in = w.map.c;
  with_storage_type(w.map.dtype, [&](auto storage) {
    using S = decltype(storage);
    auto* data = static_cast<S*>(w.map.data);
    torch::stable::parallel_for(0, in, 256, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        for (int64_t o = 0; o < out; ++o)
          for (int64_t t = 0; t < w.k; ++t)
            data[o * w.map.sn + c * w.map.sc + (w.k - 1 - t) * w.stride_k] = static_cast<S>(from[(c * w.k + t) * out + o]);
    });
  });
}

// A map to and from a dense buffer [N, H, W, C] of the accumulation type.
template <class A>
void to_pixels(const Map& from, A* to) {
  for_each_unit(from.n * from.h, [&](int64_t i) {
    const Rect row{i / from.h, i % from.h, i % from.h + 1, 0, from.w};
    load_tile(from, row, 0, from.c, to + i * from.w * from.c, from.c, 1);
  });
}
template <class A>
void from_pixels(const A* from, const Map& to) {
  for_each_unit(to.n * to.h, [&](int64_t i) {
    const Rect row{i / to.h, i % to.h, i % to.h + 1, 0, to.w};
    store_tile(to, row, 0, to.c, from + i * to.w * to.c, to.c, 1);
  });
}

template <class A>
void forward(const Forward& call) {
  const Problem& p = call.problem;
  const std::unique_ptr<A[]> w_l1(new A[p.c * p.k1 * p.m_l]), w_r1(new A[p.c * p.k3 * p.m_r]);
  arrange(Kernel(input_map(call.w.l1)), Taps::kInOrder, w_l1.get(), p.k1 * p.m_l);
  arrange(Kernel(input_map(call.w.r1)), Taps::kInOrder, w_r1.get(), p.k3 * p.m_r);
  const auto b_l1 = vector_of<A>(call.b.l1), b_r1 = vector_of<A>(call.b.r1);
  const std::unique_ptr<A[]> u_l(new A[p.pixels() * p.m_l]), u_r(new A[p.pixels() * p.m_r]);
  scatter<A>(input_map(call.x), {{Axis::H, p.k1, p.m_l, w_l1.get(), pointer_or_null(b_l1), u_l.get()},
                                 {Axis::W, p.k3, p.m_r, w_r1.get(), pointer_or_null(b_r1), u_r.get()}});

  const int64_t rows_l = p.k2 * p.m_l, rows_r = p.k4 * p.m_r;
  std::vector<A> w2(static_cast<size_t>((rows_l + rows_r) * p.o));
  arrange_by_tap(Kernel(input_map(call.w.l2)), w2.data());
  arrange_by_tap(Kernel(input_map(call.w.r2)), w2.data() + rows_l * p.o);
  const auto b2 = output_bias<A>(call.b);
  gather<A>({{Axis::W, p.k2, p.m_l, u_l.get()}, {Axis::H, p.k4, p.m_r, u_r.get()}},
            dense<const A>(w2.data(), rows_l + rows_r, p.o), pointer_or_null(b2), output_map(call.y));
  from_pixels(u_l.get(), output_map(call.u_l));
  from_pixels(u_r.get(), output_map(call.u_r));
}

template <class A>
void backward(const Backward& call) {
  const Problem& p = call.problem;
  const Wanted& wanted = call.wanted;
  const std::vector<Tensor>& grads = call.grads;
  const std::unique_ptr<A[]> dy(new A[p.pixels() * p.o]);
  to_pixels(input_map(call.dy), dy.get());

  // Output gradients of the middle maps.
  std::unique_ptr<A[]> du_l, du_r;
  const auto middle = [&](const Tensor& weight, Axis axis, int64_t k, int64_t m) {
    std::vector<A> flipped(static_cast<size_t>(m * k * p.o));
    arrange(Kernel(input_map(weight)), Taps::kFlipped, flipped.data(), k * p.o);
    std::unique_ptr<A[]> du(new A[p.pixels() * m]);
    gather<A>({{axis, k, p.o, dy.get()}}, transposed(dense<const A>(flipped.data(), m, k * p.o)), nullptr,
              dense_map(du.get(), p.n, m, p.h, p.w));
    return du;
  };
  if (wanted.any(kX, kWl1)) du_l = middle(call.w.l2, Axis::W, p.k2, p.m_l);
  if (wanted.any(kX, kWr1)) du_r = middle(call.w.r2, Axis::H, p.k4, p.m_r);

  if (wanted(kX)) {
    const int64_t rows_l = p.k1 * p.m_l, rows = rows_l + p.k3 * p.m_r;
    const std::unique_ptr<A[]> w1(new A[p.c * rows]);
    arrange(Kernel(input_map(call.w.l1)), Taps::kFlipped, w1.get(), rows);
    arrange(Kernel(input_map(call.w.r1)), Taps::kFlipped, w1.get() + rows_l, rows);
    gather<A>({{Axis::H, p.k1, p.m_l, du_l.get()}, {Axis::W, p.k3, p.m_r, du_r.get()}},
              transposed(dense<const A>(w1.get(), p.c, rows)), nullptr, output_map(grads[kX]));
  }

  struct WeightGradient {
    Gradient which;
    Map in;
    Window<A> window;
  };
  const WeightGradient all[] = {{kWl1, input_map(call.x), {Axis::H, p.k1, p.m_l, du_l.get()}},
                                {kWr1, input_map(call.x), {Axis::W, p.k3, p.m_r, du_r.get()}},
                                {kWl2, input_map(call.u_l), {Axis::W, p.k2, p.o, dy.get()}},
                                {kWr2, input_map(call.u_r), {Axis::H, p.k4, p.o, dy.get()}}};
  std::vector<Correlate<A>> gradients;
  std::vector<std::unique_ptr<A[]>> results;
  std::vector<Gradient> which;
  for (const auto& g : all) {
    if (!wanted(g.which)) continue;
    results.emplace_back(new A[g.in.c * g.window.k * g.window.m]);
    gradients.push_back({g.in, g.window, results.back().get()});
    which.push_back(g.which);
  }
  correlate(gradients);
  for (size_t i = 0; i < which.size(); ++i) write_weight_gradient(results[i].get(), Kernel(output_map(grads[which[i]])));

  write_bias_gradients(call);
}

}  // namespace

void forward_direct(const Forward& call) {
  call.problem.dtype == ScalarType::Double ? forward<double>(call) : forward<float>(call);
}

void backward_direct(const Backward& call) {
  call.problem.dtype == ScalarType::Double ? backward<double>(call) : backward<float>(call);
}

}  // namespace gcn::cpu
