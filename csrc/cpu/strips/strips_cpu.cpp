// The operators gcn_kernels::strips and gcn_kernels::strips_backward on the CPU: read the form, pack the parameters, run.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../../new_tensor.h"
#include "../../strips/arguments.h"
#include "../huge_pages.h"
#include "../map.h"
#include "../parallel.h"
#include "../spare_memory.h"
#include "engine.h"

namespace gcn::cpu::strips {
namespace {

using gcn::strips::Gradients, gcn::strips::Ints, gcn::strips::read_form;
using torch::stable::Tensor;

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
  call.taps = program.taps();
  for (const Buffer& b : program.buffers) call.max_rh = std::max(call.max_rh, b.rh);
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
  for_each_unit_in_shares(call.plan->units(), [&](int64_t i) { unit(call, i); });
}

Tensor strips(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const Ints& lengths,
              const Ints& dilations, const Ints& biased, bool stem, bool skip, bool channels_last) {
  const Form form = read_form(x, weights, biases, lengths, dilations, biased, stem, skip);
  const Tensor y = new_map(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, channels_last);
  if (y.numel() == 0) return y;
  prepare_pages(y);
  Program program = gcn::strips::forward_program(form);
  measure(program, x.size(2));
  const Plan plan = plan_for(program, x);
  const Parameters parameters(form, weights, biases);
  Call call = new_call(program, plan, parameters);
  call.images[0] = image_of(input_map(x)), call.images[1] = image_of(output_map(y));
  run(call);
  return y;
}

// Adds up the cells in their order, channel by channel, and writes the gradients of weights and biases.
template <class A>
void write_gradients(const Call& call, const Gradients& gradients) {
  const WantedGradients& wanted = gradients.wanted();
  const Plan& plan = *call.plan;
  const int64_t vectors = call.taps + call.kernel_count, lanes = plan.lanes, cells = plan.cells_of_group();
  for_each_unit_in_shares(plan.groups, [&](int64_t group) {
    double* sums = call.sums + group * cells * vectors * lanes;
    for (int64_t cell = 1; cell < cells; ++cell)
      for (int64_t i = 0; i < vectors * lanes; ++i) sums[i] += sums[cell * vectors * lanes + i];
    const int64_t c0 = group * lanes, c1 = std::min(c0 + lanes, plan.sizes.c);
    int64_t before = 0;
    for (int64_t i = 0; i < call.kernel_count; ++i) {
      const Kernel& k = call.kernels[i];
      if (wanted.weights[i]) {
        Map to = output_map(gradients.weight(i));
        if (k.along_h()) std::swap(to.sh, to.sw);
        with_storage_type(to.dtype, [&](auto storage) {
          using S = decltype(storage);
          for (int64_t c = c0; c < c1; ++c) {
            const double* from = sums + before * lanes + c - c0;
            for (int64_t across = 0; across < k.across(); ++across) {
              S* line = static_cast<S*>(to.data) + c * to.sn + across * to.sh;
              for (int64_t t = 0; t < k.length(); ++t, from += lanes) line[t * to.sw] = static_cast<S>(static_cast<A>(*from));
            }
          }
        });
      }
      before += k.taps();
      if (wanted.biases[i]) {
        const Tensor& to = gradients.bias(i);
        with_storage_type(to.scalar_type(), [&](auto storage) {
          using S = decltype(storage);
          S* data = static_cast<S*>(to.mutable_data_ptr());
          for (int64_t c = c0; c < c1; ++c) data[c] = static_cast<S>(static_cast<A>(sums[(call.taps + i) * lanes + c - c0]));
        });
      }
    }
  });
}

Gradients::Results strips_backward(const Tensor& dy, const Tensor& x, const std::vector<Tensor>& weights,
                                   const std::vector<Tensor>& biases, int64_t wanted_bits, const Ints& lengths,
                                   const Ints& dilations, const Ints& biased, bool stem, bool skip) {
  const Form form = read_form(x, weights, biases, lengths, dilations, biased, stem, skip);
  Gradients gradients(form, dy, x, weights, biases, wanted_bits);
  const WantedGradients& wanted = gradients.wanted();
  if (x.numel() == 0) {
    gradients.zero();
    return gradients.results();
  }
  Program program = gcn::strips::backward_program(form, wanted);
  measure(program, x.size(2));
  const Plan plan = plan_for(program, x);
  const Parameters parameters(form, weights, biases);
  Call call = new_call(program, plan, parameters);
  call.images[0] = image_of(input_map(dy)), call.images[1] = image_of(input_map(x));
  if (wanted.x) {
    prepare_pages(gradients.x());
    call.images[2] = image_of(output_map(gradients.x()));
  }
  Floats sums;
  if (!program.dots.empty()) {
    const int64_t vectors = plan.groups * plan.cells_of_group() * (call.taps + call.kernel_count);
    sums = new_floats(vectors * plan.lanes * static_cast<int64_t>(sizeof(double)));
    call.sums = reinterpret_cast<double*>(sums.get());
  }
  run(call);
  if (call.sums) plan.float64 ? write_gradients<double>(call, gradients) : write_gradients<float>(call, gradients);
  return gradients.results();
}

}  // namespace

#if GCN_FFT_HAVE_VECTORS
STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CPU, m) {
  m.impl("strips", TORCH_BOX(&strips));
  m.impl("strips_backward", TORCH_BOX(&strips_backward));
}

#endif

}  // namespace gcn::cpu::strips
