// The operators gcn_kernels::cuda_strips and gcn_kernels::cuda_strips_backward: allocate results and workspace, plan, launch.
// What gcn_cuda.cpp says of streams, memory and graphs holds here too. gcn_kernels::strips and gcn_kernels::strips_backward,
// which saved graphs hold, are the same without tf32.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "../../strips/arguments.h"
#include "../place.h"
#include "../plan_cache.h"
#include "../tensors.h"
#include "strips_plan.h"

namespace gcn::cuda {
namespace {

using gcn::strips::Form, gcn::strips::Gradients, gcn::strips::Ints, gcn::strips::Kernel, gcn::strips::Program,
    gcn::strips::read_form;

// Checked for all that the kernels count in 32 bits; what a tile counts in them is far smaller.
StripsSizes sizes_of(const Tensor& x, const Form& form) {
  const auto fits = [](int64_t size) { return size <= std::numeric_limits<int>::max(); };
  for (int64_t d = 0; d < 4; ++d) check(fits(x.size(d)), "x: expected sizes below 2^31, got ", x.size(d));
  for (const Kernel& k : form.kernels) {
    check(fits(k.kh) && fits(k.kw) && fits(k.taps()), "weights: expected fewer than 2^31 taps, got ", k.kh, " x ", k.kw);
  }
  return {x.size(0), x.size(1), x.size(2), x.size(3)};
}

// The parameters as the kernels read them, kept for as long as they are needed.
struct Parameters {
  std::vector<Tensor> kept;
  std::vector<const void*> weights, biases;

  Parameters(const Form& form, const std::vector<Tensor>& given_weights, const std::vector<Tensor>& given_biases) {
    size_t next = 0;
    const auto keep = [&](const Tensor& t) {
      kept.push_back(dense(t));
      return kept.back().const_data_ptr();
    };
    for (size_t i = 0; i < given_weights.size(); ++i) {
      weights.push_back(keep(given_weights[i]));
      biases.push_back(form.kernels[i].bias ? keep(given_biases[next++]) : nullptr);
    }
  }
};

// The plan of a program on the maps of a call, made once for each kind of call.
std::shared_ptr<const StripsPlan> plan_of(const Place& place, const StripsSizes& sizes, Math math, const Form& form,
                                          const std::vector<Strides>& images, const gcn::strips::WantedGradients* wanted) {
  static PlanCache<StripsPlan, LongPlanKey> plans;
  LongPlanKey key;
  key.add({place.device(), place.asked(), int64_t(math), sizes.n, sizes.c, sizes.h, sizes.w, form.stem, form.skip,
           wanted != nullptr});
  for (const Strides& s : images) key.add({s.n, s.c, s.h, s.w});
  for (const Kernel& k : form.kernels) key.add({k.kh, k.kw, k.dh, k.dw, k.bias});
  key.add(form.lengths);
  if (wanted) {
    key.add(wanted->x);
    for (const bool is : wanted->weights) key.add(is);
    for (const bool is : wanted->biases) key.add(is);
  }
  return plans.get(key, [&] {
    const Program program = wanted ? gcn::strips::backward_program(form, *wanted) : gcn::strips::forward_program(form);
    return plan_strips(program, sizes, math, images, place.gpu());
  });
}

Math math_of(const Tensor& x, bool allow_tf32) {
  const Math stored = stored_as(x.scalar_type());
  return stored == Math::kFloat && allow_tf32 ? Math::kTf32 : stored;
}

Tensor cuda_strips(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const Ints& lengths,
                   const Ints& dilations, const Ints& biased, bool stem, bool skip, bool channels_last, bool allow_tf32) {
  const Form form = read_form(x, weights, biases, lengths, dilations, biased, stem, skip);
  const StripsSizes sizes = sizes_of(x, form);
  const Place place(x);
  const Tensor y = new_map(x, {sizes.n, sizes.c, sizes.h, sizes.w}, channels_last);
  if (y.numel() == 0) return y;
  const auto plan = plan_of(place, sizes, math_of(x, allow_tf32), form, {strides_of(x), strides_of(y)}, nullptr);
  const Tensor workspace = new_workspace(x, plan->workspace_bytes);
  const Parameters parameters(form, weights, biases);
  const StripsTensors tensors = {
      {const_cast<void*>(x.const_data_ptr()), y.mutable_data_ptr()}, parameters.weights, parameters.biases, {}, {}};
  check_launches(run_strips(*plan, tensors, workspace.mutable_data_ptr(), place.stream()), "gcn_kernels::cuda_strips");
  return y;
}

Tensor strips(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const Ints& lengths,
              const Ints& dilations, const Ints& biased, bool stem, bool skip, bool channels_last) {
  return cuda_strips(x, weights, biases, lengths, dilations, biased, stem, skip, channels_last, false);
}

Gradients::Results cuda_strips_backward(const Tensor& dy, const Tensor& x, const std::vector<Tensor>& weights,
                                        const std::vector<Tensor>& biases, int64_t wanted_bits, const Ints& lengths,
                                        const Ints& dilations, const Ints& biased, bool stem, bool skip, bool allow_tf32) {
  const Form form = read_form(x, weights, biases, lengths, dilations, biased, stem, skip);
  const StripsSizes sizes = sizes_of(x, form);
  const Place place(x);
  Gradients gradients(form, dy, x, weights, biases, wanted_bits);
  const gcn::strips::WantedGradients& wanted = gradients.wanted();
  if (wanted_bits == 0) return gradients.results();
  if (x.numel() == 0) {
    gradients.zero();
    return gradients.results();
  }
  const Strides dx = wanted.x ? strides_of(gradients.x()) : strides_of(x);
  const auto plan = plan_of(place, sizes, math_of(x, allow_tf32), form, {strides_of(dy), strides_of(x), dx}, &wanted);
  const Tensor workspace = new_workspace(x, plan->workspace_bytes);
  const Parameters parameters(form, weights, biases);
  StripsTensors tensors = {{const_cast<void*>(dy.const_data_ptr()), const_cast<void*>(x.const_data_ptr()),
                            wanted.x ? gradients.x().mutable_data_ptr() : nullptr},
                           parameters.weights,
                           parameters.biases,
                           {},
                           {}};
  DenseGradients dense;
  for (size_t i = 0; i < weights.size(); ++i) {
    tensors.weight_gradients.push_back(wanted.weights[i] ? dense.of(gradients.weight(i)) : nullptr);
    tensors.bias_gradients.push_back(wanted.biases[i] ? dense.of(gradients.bias(i)) : nullptr);
  }
  check_launches(run_strips(*plan, tensors, workspace.mutable_data_ptr(), place.stream()), "gcn_kernels::cuda_strips_backward");
  dense.finish();
  return gradients.results();
}

Gradients::Results strips_backward(const Tensor& dy, const Tensor& x, const std::vector<Tensor>& weights,
                                   const std::vector<Tensor>& biases, int64_t wanted_bits, const Ints& lengths,
                                   const Ints& dilations, const Ints& biased, bool stem, bool skip) {
  return cuda_strips_backward(dy, x, weights, biases, wanted_bits, lengths, dilations, biased, stem, skip, false);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(gcn_kernels, CUDA, m) {
  m.impl("cuda_strips", TORCH_BOX(&cuda_strips));
  m.impl("cuda_strips_backward", TORCH_BOX(&cuda_strips_backward));
  m.impl("strips", TORCH_BOX(&strips));
  m.impl("strips_backward", TORCH_BOX(&strips_backward));
}

}  // namespace gcn::cuda
