// ewc_penalty on CUDA: launchers and registration. Nothing here waits for the device.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "ewc_penalty/ewc_penalty_kernel.cuh"
#include "ewc_penalty/weighted_square_cuda.cuh"

namespace fastunlearn::ewc_penalty {
namespace {

constexpr const char* op = "ewc_penalty";

template <bool WithGrad>
Tensor run(const std::vector<Tensor>& params, const ParameterLists& lists, double weight) {
  const CudaLaunch cuda(params[0]);
  const std::vector<Launch> launches = plan_launches(lists.parameters());
  const int64_t blocks = count_blocks(launches);
  const Tensor sums = empty_sums(params[0], blocks);
  double* sums_data = static_cast<double*>(sums.data_ptr());
  Tensor value = empty_scalar(params);
  launch_all<true, true, WithGrad>(op, launches, 2.0 * weight, nullptr, sums_data, cuda.stream());
  ewc_penalty_kernel<<<1, block_threads, 0, cuda.stream()>>>(sums_data, blocks, weight, value.data_ptr(),
                                                             value.scalar_type() == ScalarType::Double);
  check_launch(op);
  return value;
}

Tensor value_cuda(std::vector<Tensor> params, std::vector<Tensor> anchors, std::vector<Tensor> fisher,
                  double weight) {
  const ParameterLists lists(op, params, anchors, fisher, {}, /*with_grad=*/false);
  return run<false>(params, lists, weight);
}

std::tuple<Tensor, std::vector<Tensor>> value_and_grad_cuda(std::vector<Tensor> params,
                                                            std::vector<Tensor> anchors,
                                                            std::vector<Tensor> fisher, double weight) {
  ParameterLists lists(op, params, anchors, fisher, {}, /*with_grad=*/true);
  Tensor value = run<true>(params, lists, weight);
  return {value, lists.finish_grads()};
}

void scale_gradients_cuda(std::vector<Tensor> grads, Tensor factor) {
  const CudaLaunch cuda(factor);
  std::vector<Parameter> parameters;
  for (const Tensor& grad : grads) {
    STD_TORCH_CHECK(is_dense(grad), "scale_gradients_: grads must be dense");
    STD_TORCH_CHECK(grad.device() == factor.device(),
                    "scale_gradients_: grads must be on the factor's device");
    parameters.push_back({grad.scalar_type(), grad.numel(), 1.0, nullptr, nullptr, nullptr, grad.data_ptr()});
  }
  for (const Launch& launch : plan_launches(parameters)) {
    dispatch_floating(launch.dtype, "scale_gradients_", [&](auto zero) {
      scale_gradients_kernel<decltype(zero)><<<launch.blocks(), block_threads, 0, cuda.stream()>>>(
          launch.table, factor.data_ptr(), factor.scalar_type() == ScalarType::Double);
    });
    check_launch("scale_gradients_");
  }
}

}  // namespace
}  // namespace fastunlearn::ewc_penalty

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CUDA, m) {
  m.impl("ewc_penalty", TORCH_BOX(&fastunlearn::ewc_penalty::value_cuda));
  m.impl("ewc_penalty_with_grad", TORCH_BOX(&fastunlearn::ewc_penalty::value_and_grad_cuda));
  m.impl("scale_gradients_", TORCH_BOX(&fastunlearn::ewc_penalty::scale_gradients_cuda));
}
