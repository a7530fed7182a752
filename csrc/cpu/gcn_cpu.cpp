// The operators gcn_kernels::gcn and gcn_kernels::gcn_backward on the CPU: allocate, arrange the weights, call the algorithm.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "../problem.h"
#include "direct.h"

namespace gcn::cpu {
namespace {

using torch::stable::Tensor;

Tensor new_dense(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, {sizes.begin(), sizes.size()}, dtype);
}

template <class A>
A* data_of(const Tensor& t) {
  return static_cast<A*>(t.mutable_data_ptr());
}
template <class A>
const A* const_data_of(const Tensor& t) {
  return static_cast<const A*>(t.const_data_ptr());
}

// A weight [out, in, k, 1] or [out, in, 1, k] is a Map with n = out, c = in and its kernel along h or w.
struct Kernel {
  Map map;
  int64_t k, stride_k;

  explicit Kernel(const Map& m) : map(m), k(m.h * m.w), stride_k(m.h > 1 ? m.sh : m.sw) {}
};

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

// A vector in the accumulation type; empty where there is none.
template <class A>
std::vector<A> vector_of(const std::optional<Tensor>& t) {
  if (!t) return {};
  std::vector<A> v(static_cast<size_t>(t->numel()));
  with_storage_type(t->scalar_type(), [&](auto storage) {
    convert(static_cast<const decltype(storage)*>(t->const_data_ptr()), t->stride(0), v.data(), 1, t->numel());
  });
  return v;
}
template <class A>
const A* pointer_or_null(const std::vector<A>& v) {
  return v.empty() ? nullptr : v.data();
}

struct Biases {
  std::optional<Tensor> l1, l2, r1, r2;
};

template <class A>
void forward(const Problem& p, const Tensor& x, const Weights& w, const Biases& b, const Tensor& y, const Tensor& u_l,
             const Tensor& u_r) {
  const std::unique_ptr<A[]> w_l1(new A[p.c * p.k1 * p.m_l]), w_r1(new A[p.c * p.k3 * p.m_r]);
  arrange(Kernel(input_map(w.l1)), Taps::kInOrder, w_l1.get(), p.k1 * p.m_l);
  arrange(Kernel(input_map(w.r1)), Taps::kInOrder, w_r1.get(), p.k3 * p.m_r);
  const auto b_l1 = vector_of<A>(b.l1), b_r1 = vector_of<A>(b.r1);
  scatter<A>(input_map(x), {{Axis::H, p.k1, p.m_l, w_l1.get(), pointer_or_null(b_l1), data_of<A>(u_l)},
                            {Axis::W, p.k3, p.m_r, w_r1.get(), pointer_or_null(b_r1), data_of<A>(u_r)}});

  const int64_t rows_l = p.k2 * p.m_l, rows_r = p.k4 * p.m_r;
  std::vector<A> w2(static_cast<size_t>((rows_l + rows_r) * p.o));
  arrange_by_tap(Kernel(input_map(w.l2)), w2.data());
  arrange_by_tap(Kernel(input_map(w.r2)), w2.data() + rows_l * p.o);
  auto b2 = vector_of<A>(b.l2);
  const auto b_r2 = vector_of<A>(b.r2);
  if (b2.empty()) {
    b2 = b_r2;
  } else {
    for (size_t i = 0; i < b_r2.size(); ++i) b2[i] += b_r2[i];
  }
  gather<A>({{Axis::W, p.k2, p.m_l, const_data_of<A>(u_l)}, {Axis::H, p.k4, p.m_r, const_data_of<A>(u_r)}},
            dense<const A>(w2.data(), rows_l + rows_r, p.o), pointer_or_null(b2), output_map(y));
}

// The gradients in the order of the operator's results.
enum Gradient { kX, kWl1, kWl2, kWr1, kWr2, kBl1, kBl2, kBr1, kBr2, kGradients };

class Wanted {
 public:
  explicit Wanted(int64_t bits) : bits_(bits) {}
  bool operator()(Gradient g) const { return bits_ >> g & 1; }
  template <class... G>
  bool any(G... g) const {
    return (... || (*this)(g));
  }

 private:
  int64_t bits_;
};

// A map as a dense [N, H, W, C] buffer of the accumulation type: a copy, unless it is one already.
template <class A>
Tensor dense_copy(const Tensor& t, ScalarType accumulate) {
  const Map from = input_map(t);
  const Tensor to = new_dense(t, {from.n, from.h, from.w, from.c}, accumulate);
  A* data = data_of<A>(to);
  torch::stable::parallel_for(0, from.n * from.h, 1 + (1 << 15) / (1 + from.w * from.c), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Rect row{i / from.h, i % from.h, i % from.h + 1, 0, from.w};
      load_tile(from, row, 0, from.c, data + i * from.w * from.c, from.c, 1);
    }
  });
  return to;
}

// Sums over all pixels of a dense map [pixels, m], in double and in order.
template <class A>
void write_bias_gradient(const A* map, int64_t pixels, int64_t m, const Tensor& to) {
  std::vector<double> sums(static_cast<size_t>(m), 0.0);
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t j = 0; j < m; ++j) sums[static_cast<size_t>(j)] += static_cast<double>(map[i * m + j]);
  with_storage_type(to.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    auto* data = static_cast<S*>(to.mutable_data_ptr());
    for (int64_t j = 0; j < m; ++j) data[j] = static_cast<S>(static_cast<A>(sums[static_cast<size_t>(j)]));
  });
}

template <class A>
void backward(const Problem& p, const Tensor& grad_y, const Tensor& x, const Tensor& u_l, const Tensor& u_r, const Weights& w,
              const Wanted& wanted, const std::vector<Tensor>& grads) {
  const Tensor dy_tensor = dense_copy<A>(grad_y, p.accumulate());
  const A* dy = const_data_of<A>(dy_tensor);
  const int64_t pixels = p.pixels();
  for (const auto bias : {kBl2, kBr2})
    if (wanted(bias)) write_bias_gradient(dy, pixels, p.o, grads[bias]);

  // Output gradients of the middle maps.
  Tensor du_tensors[2];
  const A* du[2] = {nullptr, nullptr};
  const auto middle = [&](int branch, const Tensor& weight, Axis axis, int64_t k, int64_t m) {
    std::vector<A> flipped(static_cast<size_t>(m * k * p.o));
    arrange(Kernel(input_map(weight)), Taps::kFlipped, flipped.data(), k * p.o);
    du_tensors[branch] = new_dense(x, {p.n, p.h, p.w, m}, p.accumulate());
    gather<A>({{axis, k, p.o, dy}}, transposed(dense<const A>(flipped.data(), m, k * p.o)), nullptr,
              dense_map(data_of<A>(du_tensors[branch]), p.n, m, p.h, p.w));
    du[branch] = const_data_of<A>(du_tensors[branch]);
  };
  if (wanted.any(kX, kWl1, kBl1)) middle(0, w.l2, Axis::W, p.k2, p.m_l);
  if (wanted.any(kX, kWr1, kBr1)) middle(1, w.r2, Axis::H, p.k4, p.m_r);
  if (wanted(kBl1)) write_bias_gradient(du[0], pixels, p.m_l, grads[kBl1]);
  if (wanted(kBr1)) write_bias_gradient(du[1], pixels, p.m_r, grads[kBr1]);

  if (wanted(kX)) {
    const int64_t rows_l = p.k1 * p.m_l, rows = rows_l + p.k3 * p.m_r;
    const std::unique_ptr<A[]> w1(new A[p.c * rows]);
    arrange(Kernel(input_map(w.l1)), Taps::kFlipped, w1.get(), rows);
    arrange(Kernel(input_map(w.r1)), Taps::kFlipped, w1.get() + rows_l, rows);
    gather<A>({{Axis::H, p.k1, p.m_l, du[0]}, {Axis::W, p.k3, p.m_r, du[1]}}, transposed(dense<const A>(w1.get(), p.c, rows)),
              nullptr, output_map(grads[kX]));
  }

  struct WeightGradient {
    Gradient which;
    Map in;
    Window<A> window;
  };
  const auto narrow = [&](const Tensor& u, int64_t m) {
    return dense_map(const_cast<A*>(const_data_of<A>(u)), p.n, m, p.h, p.w);
  };
  const WeightGradient all[] = {{kWl1, input_map(x), {Axis::H, p.k1, p.m_l, du[0]}},
                                {kWr1, input_map(x), {Axis::W, p.k3, p.m_r, du[1]}},
                                {kWl2, narrow(u_l, p.m_l), {Axis::W, p.k2, p.o, dy}},
                                {kWr2, narrow(u_r, p.m_r), {Axis::H, p.k4, p.o, dy}}};
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
}

void check_algo(const std::string& algo) {
  STD_TORCH_CHECK(algo == "auto" || algo == "direct", "algo: expected auto or direct, got ", algo);
}

std::tuple<Tensor, Tensor, Tensor> gcn(const Tensor& x, const Tensor& w_l1, const Tensor& w_l2, const Tensor& w_r1,
                                       const Tensor& w_r2, const std::optional<Tensor>& b_l1, const std::optional<Tensor>& b_l2,
                                       const std::optional<Tensor>& b_r1, const std::optional<Tensor>& b_r2, bool channels_last,
                                       const std::string& algo) {
  const Weights w{w_l1, w_l2, w_r1, w_r2};
  const Biases b{b_l1, b_l2, b_r1, b_r2};
  const Problem p = make_problem(x, w);
  check_bias("b_l1", b.l1, x, p.m_l);
  check_bias("b_l2", b.l2, x, p.o);
  check_bias("b_r1", b.r1, x, p.m_r);
  check_bias("b_r2", b.r2, x, p.o);
  check_algo(algo);
  using torch::headeronly::MemoryFormat;
  const int64_t sizes[] = {p.n, p.o, p.h, p.w};
  const Tensor y = torch::stable::empty({sizes, 4}, p.dtype, std::nullopt, x.device(), std::nullopt,
                                        channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const Tensor u_l = new_dense(x, {p.n, p.h, p.w, p.m_l}, p.accumulate());
  const Tensor u_r = new_dense(x, {p.n, p.h, p.w, p.m_r}, p.accumulate());
  if (p.dtype == ScalarType::Double) {
    forward<double>(p, x, w, b, y, u_l, u_r);
  } else {
    forward<float>(p, x, w, b, y, u_l, u_r);
  }
  return {y, u_l, u_r};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gcn_backward(
    const Tensor& dy, const Tensor& x, const Tensor& u_l, const Tensor& u_r, const Tensor& w_l1, const Tensor& w_l2,
    const Tensor& w_r1, const Tensor& w_r2, const std::optional<Tensor>&, const std::optional<Tensor>&, int64_t wanted,
    const std::string& algo) {
  const Weights w{w_l1, w_l2, w_r1, w_r2};
  const Problem p = make_problem(x, w);
  check_algo(algo);
  const auto check_middle = [&](const char* name, const Tensor& u, int64_t m) {
    STD_TORCH_CHECK(
        u.dim() == 4 && u.numel() == p.pixels() * m && u.size(3) == m && u.is_contiguous() && u.scalar_type() == p.accumulate(),
        name, ": expected the middle map that gcn returned");
  };
  check_middle("u_l", u_l, p.m_l);
  check_middle("u_r", u_r, p.m_r);
  STD_TORCH_CHECK(dy.dim() == 4 && dy.size(0) == p.n && dy.size(1) == p.o && dy.size(2) == p.h && dy.size(3) == p.w &&
                      dy.scalar_type() == p.dtype,
                  "dy: expected [N, O, H, W] in the dtype of x");
  const Tensor like[] = {x, w_l1, w_l2, w_r1, w_r2};
  const int64_t bias_sizes[] = {p.m_l, p.o, p.m_r, p.o};
  std::vector<Tensor> grads;
  const Wanted is_wanted(wanted);
  for (int i = 0; i < kGradients; ++i) {
    if (!is_wanted(static_cast<Gradient>(i))) {
      grads.push_back(new_dense(x, {0}, p.dtype));
    } else if (i < kBl1) {
      grads.push_back(torch::stable::empty_like(like[i]));
    } else {
      grads.push_back(new_dense(x, {bias_sizes[i - kBl1]}, p.dtype));
    }
  }
  if (p.dtype == ScalarType::Double) {
    backward<double>(p, dy, x, u_l, u_r, w, is_wanted, grads);
  } else {
    backward<float>(p, dy, x, u_l, u_r, w, is_wanted, grads);
  }
  return {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6], grads[7], grads[8]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CPU, m) {
  m.impl("gcn", TORCH_BOX(&gcn));
  m.impl("gcn_backward", TORCH_BOX(&gcn_backward));
}

}  // namespace gcn::cpu
