// What the operators gcn_kernels::strips and gcn_kernels::strips_backward are called with, for the host code of every device.
//
// Users meet the checks of gcn_kernels/strips/problem.py, which explain themselves; the ones here only keep a direct call of the
// registered operators within bounds.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "../dtype.h"
#include "../new_tensor.h"
#include "program.h"

namespace gcn::strips {

using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

// Products with it stay numbers of 64 bits.
constexpr int64_t kLargestDilation = int64_t{1} << 31;

inline Form read_form(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const Ints& lengths,
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
// The gradients that strips_backward is asked for, in the order of its results: of x, of the weights, of the biases there are.
class Gradients {
 public:
  using Results = std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>>;

  Gradients(const Form& form, const Tensor& dy, const Tensor& x, const std::vector<Tensor>& weights,
            const std::vector<Tensor>& biases, int64_t wanted_bits)
      : weights_(weights.size()) {
    check(dy.dim() == 4 && dy.size(0) == x.size(0) && dy.size(1) == x.size(1) && dy.size(2) == x.size(2) &&
              dy.size(3) == x.size(3) && dy.scalar_type() == x.scalar_type() && dy.device() == x.device(),
          "dy: expected the shape, dtype and device of x");
    const size_t count = 1 + weights.size() + biases.size();
    check(count < 63 && wanted_bits >> count == 0, "wanted: expected one bit for each of ", count, " gradients, at most 62");
    const auto is_wanted = [&](size_t i) { return (wanted_bits >> i & 1) != 0; };
    const auto add = [&](const Tensor& like) {
      results_.push_back(is_wanted(results_.size()) ? new_like(like) : new_dense(x, {0}));
    };
    add(x);
    for (const Tensor& w : weights) add(w);
    for (const Tensor& b : biases) add(b);
    wanted_.x = is_wanted(0);
    for (size_t i = 0; i < weights.size(); ++i) wanted_.weights.push_back(is_wanted(1 + i));
    size_t bias = 1 + weights.size();
    for (const Kernel& k : form.kernels) {
      bias_of_.push_back(k.bias ? bias : 0);
      wanted_.biases.push_back(k.bias && is_wanted(bias++));
    }
  }

  const WantedGradients& wanted() const { return wanted_; }
  const Tensor& x() const { return results_[0]; }
  // Of a kernel; that of its bias only where it has one.
  const Tensor& weight(size_t kernel) const { return results_[1 + kernel]; }
  const Tensor& bias(size_t kernel) const { return results_[bias_of_[kernel]]; }
  // Sums of nothing.
  void zero() {
    for (Tensor& g : results_) torch::stable::zero_(g);
  }
  Results results() const {
    const auto first = results_.begin() + 1, last = first + static_cast<std::ptrdiff_t>(weights_);
    return {results_[0], std::vector<Tensor>(first, last), std::vector<Tensor>(last, results_.end())};
  }

 private:
  size_t weights_;
  WantedGradients wanted_{};
  std::vector<Tensor> results_;
  std::vector<size_t> bias_of_;  // place of a kernel's bias among the results
};

}  // namespace gcn::strips
