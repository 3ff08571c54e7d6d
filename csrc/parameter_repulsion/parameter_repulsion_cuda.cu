// parameter_repulsion on CUDA: launchers and registration. The slope stays on the device, nothing waits for it.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>
#include <vector>

#include "ewc_penalty/weighted_square_cuda.cuh"
#include "parameter_repulsion/parameter_repulsion_kernel.cuh"

namespace fastunlearn::parameter_repulsion {
namespace {

using namespace weighted_square;

constexpr const char* op = "parameter_repulsion";

std::tuple<Tensor, Tensor> run(const std::vector<Tensor>& params, const ParameterLists& lists, const Loss& loss,
                               bool with_grad) {
  const CudaLauncher launch(op, params[0]);
  const std::vector<TypedTable> tables = make_tables(lists.parameters());
  const int64_t blocks = count_blocks(tables);
  const Tensor sums = empty_sums(params[0], blocks);
  double* sums_data = static_cast<double*>(sums.data_ptr());
  double* slope = sums_data + blocks;
  Tensor value = empty_scalar(params), distance = empty_scalar(params);
  if (with_grad && loss.is_linear()) {
    launch_all<false, true, true>(launch, op, tables, 2.0 * loss.slope(0.0), nullptr, sums_data);
  } else {
    launch_all<false, true, false>(launch, op, tables, 0.0, nullptr, sums_data);
  }
  launch(parameter_repulsion_kernel, 1, block_threads, 0, sums_data, blocks, loss, value.data_ptr(),
         distance.data_ptr(), value.scalar_type() == ScalarType::Double, slope);
  if (with_grad && !loss.is_linear()) {
    launch_all<false, false, true>(launch, op, tables, 2.0, slope, nullptr);
  }
  return {value, distance};
}

std::tuple<Tensor, Tensor> value_cuda(std::vector<Tensor> params, std::vector<Tensor> anchors,
                                      std::vector<double> tensor_weights, std::string kind, double alpha, double spread,
                                      double weight) {
  const ParameterLists lists(op, params, anchors, {}, tensor_weights, /*with_grad=*/false);
  return run(params, lists, parse_loss(kind, alpha, spread, weight), false);
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> value_and_grad_cuda(std::vector<Tensor> params,
                                                                    std::vector<Tensor> anchors,
                                                                    std::vector<double> tensor_weights,
                                                                    std::string kind, double alpha, double spread,
                                                                    double weight) {
  ParameterLists lists(op, params, anchors, {}, tensor_weights, /*with_grad=*/true);
  const auto [value, distance] = run(params, lists, parse_loss(kind, alpha, spread, weight), true);
  return {value, distance, lists.take_grads()};
}

}  // namespace
}  // namespace fastunlearn::parameter_repulsion

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("parameter_repulsion", TORCH_BOX(&fastunlearn::parameter_repulsion::value_cuda));
  m.impl("parameter_repulsion_with_grad", TORCH_BOX(&fastunlearn::parameter_repulsion::value_and_grad_cuda));
}
