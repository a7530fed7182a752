// The operator in the frequency domain: each of its convolutions, input gradients and weight gradients is one call of the
// engine in fft/. Middle maps are planar [N, M, H, W]; both branches of a stage run side by side.
//
// A transform spreads a NaN or an infinity over its whole block. The first result that holds one stops the engine, and the direct
// method does the whole call, whose products keep such values within the receptive field. That costs at most the time of both
// methods, whatever the pattern of values, and results still depend on the arguments alone: the decision does, too.
#include <atomic>
#include <cstring>
#include <memory>

#include "../fft/engine.h"
#include "../image.h"
#include "../parallel.h"
#include "../spare_memory.h"
#include "bias_gradient.h"
#include "gcn.h"
#include "spectra_cache.h"

namespace gcn::cpu {
namespace {

fft::Parallel torch_pool() {
  return {[](void*, int64_t count, void (*unit)(void*, int64_t), void* arg) {
            for_each_unit(count, [&](int64_t i) { unit(arg, i); });
          },
          nullptr};
}

enum class Direction { kForward, kInputGradient };

// A weight as the engine reads it: in float, and for an input gradient with its channels exchanged and its taps reversed.
struct FloatFilter {
  std::vector<float> copy;  // of a weight in another dtype
  fft::Filter filter;

  FloatFilter(Map m, Direction direction) {
    if (m.dtype != ScalarType::Float) {
      copy.resize(static_cast<size_t>(m.n * m.c * m.h * m.w));
      const int64_t k = m.h * m.w;
      for (int64_t o = 0; o < m.n; ++o) load_tile(m, {o, 0, m.h, 0, m.w}, 0, m.c, copy.data() + o * m.c * k, 1, k);
      m = {copy.data(), ScalarType::Float, m.n, m.c, m.h, m.w, m.c * k, k, m.w, 1};
    }
    const Kernel kernel(m);
    filter = {static_cast<const float*>(m.data), m.sn, m.sc, kernel.stride_k};
    if (direction == Direction::kInputGradient) {
      filter = {filter.data + (kernel.k - 1) * kernel.stride_k, m.sc, m.sn, -kernel.stride_k};
    }
  }
};

// One convolution of the block, ready for the engine.
class Convolution {
 public:
  Convolution(const fft::Plan& plan, const Tensor& weight, Direction direction, bool cache)
      : plan_(plan), workspace_(new_floats(plan.workspace_bytes)) {
    if (cache && fills_its_memory(weight)) {
      cached_spectra(weight, direction);
    } else {
      spectra_ = prepared(FloatFilter(input_map(weight), direction));
    }
  }
  Convolution(const Convolution&) = delete;

  fft::ConvCall call(const fft::ConstImage& in, const float* bias, const fft::Image& out, std::atomic<bool>& not_finite,
                     const fft::ConstImage* addend = nullptr) const {
    return {&plan_, in, spectra_.get(), bias, addend, out, workspace_.get(), &not_finite};
  }

 private:
  static bool fills_its_memory(const Tensor& weight) {
    int64_t span = 1;
    for (int64_t d = 0; d < weight.dim(); ++d) span += (weight.size(d) - 1) * weight.stride(d);
    return span == weight.numel();
  }

  SpectraCache::Spectra prepared(const FloatFilter& filter) const {
    SpectraCache::Spectra spectra = new_floats(plan_.spectra_bytes);
    fft::prepare(plan_, filter.filter, spectra.get(), torch_pool());
    return spectra;
  }

  // Spectra that are not in the cache yet are made from a copy of the weight, and kept under the copy's fingerprint. So they
  // belong together, whatever other threads write to the weight in the meantime.
  void cached_spectra(const Tensor& weight, Direction direction) {
    const int64_t bytes = weight.numel() * static_cast<int64_t>(weight.element_size());
    const SpectraCache::Key key{weight.const_data_ptr(), layout_of(weight, direction), plan_};
    spectra_ = SpectraCache::instance().find(key, fingerprint(weight.const_data_ptr(), bytes, torch_pool()));
    if (spectra_) return;
    const Floats copy = new_floats(bytes);
    std::memcpy(copy.get(), weight.const_data_ptr(), static_cast<size_t>(bytes));
    Map map = input_map(weight);
    map.data = copy.get();
    spectra_ = prepared(FloatFilter(map, direction));
    SpectraCache::instance().insert(key, fingerprint(copy.get(), bytes, torch_pool()), spectra_);
  }

  static std::array<int64_t, 10> layout_of(const Tensor& w, Direction direction) {
    return {static_cast<int64_t>(w.scalar_type()),
            w.size(0),
            w.size(1),
            w.size(2),
            w.size(3),
            w.stride(0),
            w.stride(1),
            w.stride(2),
            w.stride(3),
            static_cast<int64_t>(direction)};
  }

  fft::Plan plan_;
  SpectraCache::Spectra spectra_;
  Floats workspace_;
};

bool can_transform(const Problem& p) { return p.n > 0 && p.dtype != ScalarType::Double; }

fft::Problem line(const Problem& p, fft::Axis axis, int64_t c, int64_t o, int64_t k) { return {axis, p.n, c, o, p.h, p.w, k}; }

}  // namespace

LinePlans plan_forward(const Problem& p) {
  if (!can_transform(p)) return {};
  using fft::Axis;
  return {fft::plan_conv(line(p, Axis::kH, p.c, p.m_l, p.k1)), fft::plan_conv(line(p, Axis::kW, p.m_l, p.o, p.k2)),
          fft::plan_conv(line(p, Axis::kW, p.c, p.m_r, p.k3)), fft::plan_conv(line(p, Axis::kH, p.m_r, p.o, p.k4))};
}

BackwardPlans plan_backward(const Problem& p) {
  if (!can_transform(p)) return {};
  using fft::Axis;
  return {{fft::plan_conv(line(p, Axis::kH, p.m_l, p.c, p.k1)), fft::plan_conv(line(p, Axis::kW, p.o, p.m_l, p.k2)),
           fft::plan_conv(line(p, Axis::kW, p.m_r, p.c, p.k3)), fft::plan_conv(line(p, Axis::kH, p.o, p.m_r, p.k4))},
          {fft::plan_wgrad(line(p, Axis::kH, p.c, p.m_l, p.k1)), fft::plan_wgrad(line(p, Axis::kW, p.m_l, p.o, p.k2)),
           fft::plan_wgrad(line(p, Axis::kW, p.c, p.m_r, p.k3)), fft::plan_wgrad(line(p, Axis::kH, p.m_r, p.o, p.k4))}};
}

void forward_fft(const Forward& call, const LinePlans& plans) {
  const auto pool = torch_pool();
  std::atomic<bool> not_finite{false};
  const Convolution l1(plans.l1, call.w.l1, Direction::kForward, call.cache_weights);
  const Convolution l2(plans.l2, call.w.l2, Direction::kForward, call.cache_weights);
  const Convolution r1(plans.r1, call.w.r1, Direction::kForward, call.cache_weights);
  const Convolution r2(plans.r2, call.w.r2, Direction::kForward, call.cache_weights);
  const auto b_l1 = vector_of<float>(call.b.l1), b_r1 = vector_of<float>(call.b.r1), b2 = output_bias<float>(call.b);
  const auto x = input_image(call.x), u_l = input_image(call.u_l), u_r = input_image(call.u_r);
  const auto y = output_image(call.y);
  const auto y_left = input_image(call.y);

  const fft::ConvCall first[] = {l1.call(x, pointer_or_null(b_l1), output_image(call.u_l), not_finite),
                                 r1.call(x, pointer_or_null(b_r1), output_image(call.u_r), not_finite)};
  fft::conv(first, 2, pool);
  const fft::ConvCall left = l2.call(u_l, pointer_or_null(b2), y, not_finite);
  fft::conv(&left, 1, pool);
  const fft::ConvCall right = r2.call(u_r, nullptr, y, not_finite, &y_left);
  fft::conv(&right, 1, pool);
  if (not_finite) forward_direct(call);
}

void backward_fft(const Backward& call, const BackwardPlans& plans) {
  const auto pool = torch_pool();
  std::atomic<bool> not_finite{false};
  const Problem& p = call.problem;
  const Wanted& wanted = call.wanted;
  const auto dy = input_image(call.dy), x = input_image(call.x);

  const bool left = wanted.any(kX, kWl1), right = wanted.any(kX, kWr1);
  Tensor du_l, du_r;
  {
    std::vector<std::unique_ptr<Convolution>> convolutions;
    std::vector<fft::ConvCall> calls;
    const auto middle = [&](const fft::Plan& plan, const Tensor& weight, int64_t m) {
      const Tensor du = new_dense(call.x, {p.n, m, p.h, p.w}, ScalarType::Float);
      convolutions.push_back(std::make_unique<Convolution>(plan, weight, Direction::kInputGradient, false));
      calls.push_back(convolutions.back()->call(dy, nullptr, output_image(du), not_finite));
      return du;
    };
    if (left) du_l = middle(plans.input.l2, call.w.l2, p.m_l);
    if (right) du_r = middle(plans.input.r2, call.w.r2, p.m_r);
    fft::conv(calls.data(), static_cast<int>(calls.size()), pool);
  }

  if (wanted(kX)) {
    const Convolution l1(plans.input.l1, call.w.l1, Direction::kInputGradient, false);
    const Convolution r1(plans.input.r1, call.w.r1, Direction::kInputGradient, false);
    const auto dx_left = input_image(call.grads[kX]);
    const fft::ConvCall from_left = l1.call(input_image(du_l), nullptr, output_image(call.grads[kX]), not_finite);
    fft::conv(&from_left, 1, pool);
    const fft::ConvCall from_right = r1.call(input_image(du_r), nullptr, output_image(call.grads[kX]), not_finite, &dx_left);
    fft::conv(&from_right, 1, pool);
  }

  // The engine writes float; a gradient in another dtype is converted at the end.
  std::vector<fft::WgradCall> calls;
  std::vector<Floats> workspaces;
  std::vector<std::pair<Gradient, std::unique_ptr<float[]>>> converted;
  const auto weight_gradient = [&](Gradient which, const fft::Plan& plan, const fft::ConstImage& in,
                                   const fft::ConstImage& dout) {
    const Map m = output_map(call.grads[which]);
    fft::FilterGrad grad{static_cast<float*>(m.data), m.sn, m.sc, Kernel(m).stride_k};
    if (m.dtype != ScalarType::Float) {
      const int64_t k = m.h * m.w;
      converted.emplace_back(which, new float[static_cast<size_t>(m.n * m.c * k)]);
      grad = {converted.back().second.get(), m.c * k, k, 1};
    }
    workspaces.push_back(new_floats(plan.workspace_bytes));
    calls.push_back({&plan, in, dout, grad, workspaces.back().get(), &not_finite});
  };
  if (wanted(kWl1)) weight_gradient(kWl1, plans.weight.l1, x, input_image(du_l));
  if (wanted(kWl2)) weight_gradient(kWl2, plans.weight.l2, input_image(call.u_l), dy);
  if (wanted(kWr1)) weight_gradient(kWr1, plans.weight.r1, x, input_image(du_r));
  if (wanted(kWr2)) weight_gradient(kWr2, plans.weight.r2, input_image(call.u_r), dy);
  fft::wgrad(calls.data(), static_cast<int>(calls.size()), pool);
  if (not_finite) return backward_direct(call);
  for (const auto& [which, values] : converted) {
    const Map m = output_map(call.grads[which]);
    const int64_t k = m.h * m.w;
    for (int64_t o = 0; o < m.n; ++o) store_tile(m, {o, 0, m.h, 0, m.w}, 0, m.c, values.get() + o * m.c * k, 1, k);
  }

  write_bias_gradients(call);
}

}  // namespace gcn::cpu
