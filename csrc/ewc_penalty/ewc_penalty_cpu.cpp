// ewc_penalty on the CPU: weight · Σ F (θ − θ_G)², its gradient 2 · weight · F (θ − θ_G) in the same pass.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "common/parameter_lists.h"
#include "ewc_penalty/weighted_square_cpu.h"

namespace fastunlearn::ewc_penalty {
namespace {

constexpr const char* op = "ewc_penalty";

Tensor value_cpu(std::vector<Tensor> params, std::vector<Tensor> anchors, std::vector<Tensor> fisher, double weight) {
  const ParameterLists lists(op, params, anchors, fisher, {}, /*with_grad=*/false);
  const double sum = weighted_square::sum_cpu<true>(op, lists.parameters());
  return weighted_square::scalar_cpu(params, weight * sum);
}

std::tuple<Tensor, std::vector<Tensor>> value_and_grad_cpu(std::vector<Tensor> params, std::vector<Tensor> anchors,
                                                           std::vector<Tensor> fisher, double weight) {
  ParameterLists lists(op, params, anchors, fisher, {}, /*with_grad=*/true);
  const double sum = weighted_square::gradient_cpu<true, true>(op, lists.parameters(), 2.0 * weight);
  return {weighted_square::scalar_cpu(params, weight * sum), lists.take_grads()};
}

template <typename T>
FASTUNLEARN_CLONES void scale(T* data, int64_t n, accumulate_t<T> factor) {
  for (int64_t i = 0; i < n; ++i) data[i] = static_cast<T>(factor * static_cast<accumulate_t<T>>(data[i]));
}

// What stands between a stored gradient and the one that backward owes: the gradient of the value itself. It
// is 1 when the penalty is a summand of the loss, and then nothing is read or written.
void scale_gradients_cpu(std::vector<Tensor> grads, Tensor factor) {
  double by = 0;
  dispatch_floating(factor.scalar_type(), "scale_gradients_", [&](auto zero) {
    by = static_cast<double>(*static_cast<const decltype(zero)*>(factor.data_ptr()));
  });
  if (by == 1.0) return;
  for (const Tensor& grad : grads) {
    STD_TORCH_CHECK(is_dense(grad), "scale_gradients_: grads must be dense");
    dispatch_floating(grad.scalar_type(), "scale_gradients_", [&](auto zero) {
      using T = decltype(zero);
      parallel_range(grad.numel(), 1, [&](int64_t begin, int64_t end) {
        scale(static_cast<T*>(grad.data_ptr()) + begin, end - begin, static_cast<accumulate_t<T>>(by));
      });
    });
  }
}

}  // namespace
}  // namespace fastunlearn::ewc_penalty

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("ewc_penalty", TORCH_BOX(&fastunlearn::ewc_penalty::value_cpu));
  m.impl("ewc_penalty_with_grad", TORCH_BOX(&fastunlearn::ewc_penalty::value_and_grad_cpu));
  m.impl("scale_gradients_", TORCH_BOX(&fastunlearn::ewc_penalty::scale_gradients_cpu));
}
