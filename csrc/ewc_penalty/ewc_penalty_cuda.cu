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
  const CudaLauncher launch(op, params[0]);
  const std::vector<TypedTable> tables = make_tables(lists.parameters());
  const int64_t blocks = count_blocks(tables);
  const Tensor sums = empty_sums(params[0], blocks);
  double* sums_data = static_cast<double*>(sums.data_ptr());
  Tensor value = empty_scalar(params);
  launch_all<true, true, WithGrad>(launch, op, tables, 2.0 * weight, nullptr, sums_data);
  launch(ewc_penalty_kernel, 1, block_threads, 0, sums_data, blocks, weight, value.data_ptr(),
         value.scalar_type() == ScalarType::Double);
  return value;
}

Tensor value_cuda(std::vector<Tensor> params, std::vector<Tensor> anchors, std::vector<Tensor> fisher, double weight) {
  const ParameterLists lists(op, params, anchors, fisher, {}, /*with_grad=*/false);
  return run<false>(params, lists, weight);
}

std::tuple<Tensor, std::vector<Tensor>> value_and_grad_cuda(std::vector<Tensor> params, std::vector<Tensor> anchors,
                                                            std::vector<Tensor> fisher, double weight) {
  ParameterLists lists(op, params, anchors, fisher, {}, /*with_grad=*/true);
  Tensor value = run<true>(params, lists, weight);
  return {value, lists.take_grads()};
}

void scale_gradients_cuda(std::vector<Tensor> grads, Tensor factor) {
  const char* scale = "scale_gradients_";
  const CudaLauncher launch(scale, factor);
  std::vector<Parameter> parameters;
  for (const Tensor& grad : grads) {
    STD_TORCH_CHECK(is_dense(grad), scale, ": grads must be dense");
    STD_TORCH_CHECK(grad.device() == factor.device(), scale, ": grads must be on the factor's device");
    parameters.push_back({grad.scalar_type(), grad.numel(), 1.0, nullptr, nullptr, nullptr, grad.data_ptr()});
  }
  dispatch_floating(factor.scalar_type(), scale, [&](auto factor_zero) {
    using F = decltype(factor_zero);
    for (const auto& [dtype, table] : make_tables(parameters)) {
      dispatch_floating(dtype, scale, [&, &table = table](auto zero) {
        launch(scale_gradients_kernel<decltype(zero), F>, table.blocks(), block_threads, 0, table,
               static_cast<const F*>(factor.data_ptr()));
      });
    }
  });
}

}  // namespace
}  // namespace fastunlearn::ewc_penalty

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("ewc_penalty", TORCH_BOX(&fastunlearn::ewc_penalty::value_cuda));
  m.impl("ewc_penalty_with_grad", TORCH_BOX(&fastunlearn::ewc_penalty::value_and_grad_cuda));
  m.impl("scale_gradients_", TORCH_BOX(&fastunlearn::ewc_penalty::scale_gradients_cuda));
}
