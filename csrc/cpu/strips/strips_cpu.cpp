// The operators gcn_kernels::strips and gcn_kernels::strips_backward on the CPU: read the form, pack the parameters, run.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../../dtype.h"
#include "../map.h"
#include "../parallel.h"
#include "engine.h"

namespace gcn::cpu::strips {
namespace {

using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

// Products with it stay numbers of 64 bits.
constexpr int64_t kLargestDilation = int64_t{1} << 31;

// The sizes are those that fused_strips has checked with better words; here they only keep a direct call within bounds.
Form read_form(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const Ints& lengths,
               const Ints& dilations, const Ints& biased, bool stem, bool skip) {
  check(x.dim() == 4, "x: expected [N, C, H, W], got ", x.dim(), " dimensions");
  check(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, "x: expected C, H and W of at least 1, only the batch may be empty");
  check_dtype(x.scalar_type());
  Form form{{}, lengths, stem, skip};
  const int64_t count = static_cast<int64_t>(weights.size());
  int64_t steps = stem;
  for (const int64_t length : lengths) {
    check(length > 0 && length <= count, "lengths: expected from 1 to ", count, " steps in every branch");
    steps += length;
  }
  check(!lengths.empty() && steps == count && static_cast<int64_t>(dilations.size()) == 2 * count &&
            static_cast<int64_t>(biased.size()) == count,
        "expected lengths, dilations and biased for ", count, " weights");
  size_t next = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor& w = weights[i];
    check(w.dim() == 4 && w.size(0) == x.size(1) && w.size(1) == 1 && w.size(2) % 2 == 1 && w.size(3) % 2 == 1 &&
              w.scalar_type() == x.scalar_type() && w.device() == x.device(),
          "weights: expected [C, 1, odd kh, odd kw] with the dtype and device of x");
    form.kernels.push_back({w.size(2), w.size(3), dilations[2 * i], dilations[2 * i + 1], biased[i] != 0});
    check(std::min(dilations[2 * i], dilations[2 * i + 1]) > 0 &&
              std::max(dilations[2 * i], dilations[2 * i + 1]) <= kLargestDilation,
          "dilations: expected from 1 to 2**31");
    if (!biased[i]) continue;
    check(next < biases.size() && biases[next].dim() == 1 && biases[next].size(0) == x.size(1) &&
              biases[next].scalar_type() == x.scalar_type() && biases[next].device() == x.device(),
          "biases: expected [C] with the dtype and device of x for every step that has one");
    ++next;
  }
  check(next == biases.size(), "biases: expected ", next, ", got ", biases.size());
  return form;
}

Image image_of(const Map& m) {
  const DType dtype = m.dtype == ScalarType::Double     ? DType::kFloat64
                      : m.dtype == ScalarType::BFloat16 ? DType::kBFloat16
                      : m.dtype == ScalarType::Half     ? DType::kFloat16
                                                        : DType::kFloat32;
  return {m.data, dtype, m.sn, m.sc, m.sh, m.sw};
}

// The parameters of all steps as images; weights [C, 1, kh, kw] have their channels in front.
struct Parameters {
  std::vector<Image> weights, biases;

  Parameters(const Form& form, const std::vector<Tensor>& weights_in, const std::vector<Tensor>& biases_in) {
    size_t next = 0;
    for (size_t i = 0; i < weights_in.size(); ++i) {
      Image w = image_of(input_map(weights_in[i]));
      w.stride_c = w.stride_n;
      weights.push_back(w);
      Image b = {};
      if (form.kernels[i].bias) {
        const Tensor& t = biases_in[next++];
        b = {const_cast<void*>(t.const_data_ptr()), w.dtype, 0, t.stride(0), 0, 0};
      }
      biases.push_back(b);
    }
  }
};

Call new_call(const Program& program, const Plan& plan, const Parameters& parameters) {
  Call call = {};
  call.program = &program, call.plan = &plan;
  call.weights = parameters.weights.data(), call.biases = parameters.biases.data();
  call.kernels = program.kernels.data(), call.buffers = program.buffers.data();
  call.steps = program.steps.data(), call.dots = program.dots.data();
  call.kernel_count = static_cast<int64_t>(program.kernels.size());
  call.buffer_count = static_cast<int64_t>(program.buffers.size());
  call.step_count = static_cast<int64_t>(program.steps.size());
  call.dot_count = static_cast<int64_t>(program.dots.size());
  call.taps = program.taps(), call.max_rh = program.max_rh();
  return call;
}

Plan plan_for(const Program& program, const Tensor& x) {
  const bool float64 = x.scalar_type() == ScalarType::Double;
  return make_plan(program, {x.size(0), x.size(1), x.size(2), x.size(3)}, float64, vector_bytes() / (float64 ? 8 : 4),
                   torch::stable::get_num_threads());
}

void run(const Call& call) {
  const Engine* engine = active_engine();
  check(engine, "this build has no vector extensions: use backend='torch'");
  const auto unit = call.plan->float64 ? engine->float64 : engine->float32;
  for_each_unit(call.plan->units(), [&](int64_t i) { unit(call, i); });
}

Tensor strips(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const Ints& lengths,
              const Ints& dilations, const Ints& biased, bool stem, bool skip, bool channels_last) {
  const Form form = read_form(x, weights, biases, lengths, dilations, biased, stem, skip);
  using torch::headeronly::MemoryFormat;
  const int64_t sizes[] = {x.size(0), x.size(1), x.size(2), x.size(3)};
  const Tensor y = torch::stable::empty({sizes, 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                        channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  if (y.numel() == 0) return y;
  const Program program = forward_program(form, x.size(2));
  const Plan plan = plan_for(program, x);
  const Parameters parameters(form, weights, biases);
  Call call = new_call(program, plan, parameters);
  call.images[0] = image_of(input_map(x)), call.images[1] = image_of(output_map(y));
  run(call);
  return y;
}

// Adds up the cells in their order, channel by channel, and writes the gradients of weights and biases.
template <class A>
void write_gradients(const Call& call, const WantedGradients& wanted, const std::vector<Tensor>& grads) {
  const Plan& plan = *call.plan;
  const int64_t vectors = call.taps + call.kernel_count, lanes = plan.lanes, cells = plan.cells_of_group();
  for_each_unit(plan.groups, [&](int64_t group) {
    double* sums = call.sums + group * cells * vectors * lanes;
    for (int64_t cell = 1; cell < cells; ++cell)
      for (int64_t i = 0; i < vectors * lanes; ++i) sums[i] += sums[cell * vectors * lanes + i];
    const int64_t c0 = group * lanes, c1 = std::min(c0 + lanes, plan.sizes.c);
    int64_t before = 0;
    size_t bias = 1 + wanted.weights.size();
    for (int64_t i = 0; i < call.kernel_count; ++i) {
      const Kernel& k = call.kernels[i];
      if (wanted.weights[i]) {
        const Map to = output_map(grads[1 + i]);
        with_storage_type(to.dtype, [&](auto storage) {
          using S = decltype(storage);
          for (int64_t c = c0; c < c1; ++c)
            for (int64_t t = 0; t < k.taps(); ++t) {
              const int64_t across = t / k.length(), along = t % k.length();
              const int64_t h = k.along_h() ? along : across, w = k.along_h() ? across : along;
              static_cast<S*>(to.data)[c * to.sn + h * to.sh + w * to.sw] =
                  static_cast<S>(static_cast<A>(sums[(before + t) * lanes + c - c0]));
            }
        });
      }
      before += k.taps();
      if (!k.bias) continue;
      if (wanted.biases[i]) {
        with_storage_type(grads[bias].scalar_type(), [&](auto storage) {
          using S = decltype(storage);
          for (int64_t c = c0; c < c1; ++c)
            static_cast<S*>(grads[bias].mutable_data_ptr())[c] =
                static_cast<S>(static_cast<A>(sums[(call.taps + i) * lanes + c - c0]));
        });
      }
      ++bias;
    }
  });
}

std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>> strips_backward(
    const Tensor& dy, const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, int64_t wanted_bits,
    const Ints& lengths, const Ints& dilations, const Ints& biased, bool stem, bool skip) {
  const Form form = read_form(x, weights, biases, lengths, dilations, biased, stem, skip);
  check(dy.dim() == 4 && dy.size(0) == x.size(0) && dy.size(1) == x.size(1) && dy.size(2) == x.size(2) &&
            dy.size(3) == x.size(3) && dy.scalar_type() == x.scalar_type() && dy.device() == x.device(),
        "dy: expected the shape, dtype and device of x");
  const size_t count = 1 + weights.size() + biases.size();
  check(count < 63 && wanted_bits >> count == 0, "wanted: expected one bit for each of ", count, " gradients, at most 62");
  const auto is_wanted = [&](size_t i) { return (wanted_bits >> i & 1) != 0; };
  WantedGradients wanted{is_wanted(0), {}, {}};
  for (size_t i = 0; i < weights.size(); ++i) wanted.weights.push_back(is_wanted(1 + i));
  size_t bias = 1 + weights.size();
  for (const Kernel& k : form.kernels) wanted.biases.push_back(k.bias && is_wanted(bias++));
  std::vector<Tensor> grads;
  const int64_t none[] = {0};
  const auto add = [&](const Tensor& like) {
    grads.push_back(is_wanted(grads.size()) ? torch::stable::empty_like(like) : torch::stable::new_empty(x, {none, 1}));
  };
  add(x);
  for (const Tensor& w : weights) add(w);
  for (const Tensor& b : biases) add(b);
  const auto results = [&] {
    const auto first = grads.begin() + 1, last = first + static_cast<std::ptrdiff_t>(weights.size());
    return std::tuple{grads[0], std::vector<Tensor>(first, last), std::vector<Tensor>(last, grads.end())};
  };
  if (x.numel() == 0) {
    for (Tensor& g : grads) torch::stable::zero_(g);
    return results();
  }
  const Program program = backward_program(form, wanted, x.size(2));
  const Plan plan = plan_for(program, x);
  const Parameters parameters(form, weights, biases);
  Call call = new_call(program, plan, parameters);
  call.images[0] = image_of(input_map(dy)), call.images[1] = image_of(input_map(x));
  if (wanted.x) call.images[2] = image_of(output_map(grads[0]));
  std::unique_ptr<double[]> sums;
  if (!program.dots.empty()) {
    sums.reset(new double[plan.groups * plan.cells_of_group() * (call.taps + call.kernel_count) * plan.lanes]);
    call.sums = sums.get();
  }
  run(call);
  if (call.sums) plan.float64 ? write_gradients<double>(call, wanted, grads) : write_gradients<float>(call, wanted, grads);
  return results();
}

}  // namespace

#if GCN_FFT_HAVE_VECTORS
STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CPU, m) {
  m.impl("strips", TORCH_BOX(&strips));
  m.impl("strips_backward", TORCH_BOX(&strips_backward));
}

#endif

}  // namespace gcn::cpu::strips
