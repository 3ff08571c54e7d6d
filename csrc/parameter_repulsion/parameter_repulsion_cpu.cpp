// parameter_repulsion on the CPU. The gradient is 2 · slope(d²) · w_t (θ − a): one pass where the slope is a
// constant (nl2), a second one where it needs the finished distance (il2, el2).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>
#include <vector>

#include "common/parameter_lists.h"
#include "ewc_penalty/weighted_square_cpu.h"
#include "parameter_repulsion/parameter_repulsion.h"

namespace fastunlearn::parameter_repulsion {
namespace {

constexpr const char* op = "parameter_repulsion";

using weighted_square::gradient_cpu;
using weighted_square::scalar_cpu;
using weighted_square::sum_cpu;

std::tuple<Tensor, Tensor> value_cpu(std::vector<Tensor> params, std::vector<Tensor> anchors,
                                     std::vector<double> tensor_weights, std::string kind, double alpha, double spread,
                                     double weight) {
  const Loss loss = parse_loss(kind, alpha, spread, weight);
  const ParameterLists lists(op, params, anchors, {}, tensor_weights, /*with_grad=*/false);
  const double distance = spread + sum_cpu<false>(op, lists.parameters());
  return {scalar_cpu(params, loss.value(distance)), scalar_cpu(params, distance)};
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> value_and_grad_cpu(std::vector<Tensor> params,
                                                                   std::vector<Tensor> anchors,
                                                                   std::vector<double> tensor_weights, std::string kind,
                                                                   double alpha, double spread, double weight) {
  const Loss loss = parse_loss(kind, alpha, spread, weight);
  ParameterLists lists(op, params, anchors, {}, tensor_weights, /*with_grad=*/true);
  double distance = spread;
  if (loss.is_linear()) {
    distance += gradient_cpu<false, true>(op, lists.parameters(), 2.0 * loss.slope(0.0));
  } else {
    distance += sum_cpu<false>(op, lists.parameters());
    gradient_cpu<false, false>(op, lists.parameters(), 2.0 * loss.slope(distance));
  }
  return {scalar_cpu(params, loss.value(distance)), scalar_cpu(params, distance), lists.take_grads()};
}

}  // namespace
}  // namespace fastunlearn::parameter_repulsion

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("parameter_repulsion", TORCH_BOX(&fastunlearn::parameter_repulsion::value_cpu));
  m.impl("parameter_repulsion_with_grad", TORCH_BOX(&fastunlearn::parameter_repulsion::value_and_grad_cpu));
}
