// bias_act on CUDA: launches and registration.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "bias_act/bias_act_arguments.h"
#include "bias_act/bias_act_kernel.cuh"
#include "common/launch.h"

namespace fastunlearn::bias_act {
namespace {

constexpr int64_t elements_per_part = 8192, max_parts = 256;

std::tuple<Tensor, Tensor> bias_act_cuda(const Tensor& x, const std::optional<Tensor>& b, int64_t dim,
                                         const std::string& act, double alpha, double gain, double clamp, bool signs) {
  const CudaLauncher launch("bias_act", x);
  const Forward f(x, b, dim, act, clamp, signs);
  dispatch(x, act, "bias_act", [&](auto zero, auto activation) {
    using T = decltype(zero);
    using R = accumulate_t<T>;
    launch(forward_kernel<activation.value, T, R>, grid_for(f.extent.numel(), block_threads), block_threads, 0,
           static_cast<const T*>(f.x.const_data_ptr()), static_cast<const T*>(f.b),
           static_cast<T*>(f.y.mutable_data_ptr()), f.sign_words(), f.extent, parameters<R, T>(alpha, gain, clamp));
  });
  return {f.y, f.signs};
}

std::tuple<Tensor, Tensor> bias_act_backward_cuda(const Tensor& grad_y, const Tensor& ref,
                                                  const std::optional<Tensor>& signs, const std::optional<Tensor>& b,
                                                  int64_t dim, const std::string& act, double alpha, double gain,
                                                  double clamp, bool reduce) {
  const char* op = "bias_act_backward";
  const CudaLauncher launch(op, ref);
  const Backward f(grad_y, ref, signs, b, dim, act, clamp, reduce, op);
  const Extent extent = f.extent;
  // Cut by shape alone, so that sums do not depend on the device.
  const int64_t parts =
      std::clamp<int64_t>(extent.outer * extent.inner / elements_per_part, 1, std::min(max_parts, extent.outer + 1));
  dispatch(ref, act, op, [&](auto zero, auto activation) {
    using T = decltype(zero);
    using R = accumulate_t<T>;
    constexpr Activation A = activation.value;
    const auto p = parameters<R, T>(alpha, gain, clamp);
    const T* grad = static_cast<const T*>(f.grad_y.const_data_ptr());
    const T* reference = static_cast<const T*>(f.ref.const_data_ptr());
    const T* bias = static_cast<const T*>(f.b);
    T* grad_x = static_cast<T*>(f.grad_x.mutable_data_ptr());
    if (!reduce) {
      launch(backward_kernel<A, T, R>, grid_for(extent.numel(), block_threads), block_threads, 0, grad, reference,
             f.signs, bias, grad_x, extent, p);
      return;
    }
    if (extent.channels == 0) return;
    const auto sum_type = sizeof(R) == sizeof(double) ? ScalarType::Double : ScalarType::Float;
    const Tensor sums = torch::stable::new_empty(ref, {parts * extent.channels}, sum_type);
    R* sums_data = static_cast<R*>(sums.mutable_data_ptr());
    const unsigned channels = static_cast<unsigned>(extent.channels), y = static_cast<unsigned>(parts);
    if (extent.inner == 1) {
      launch(backward_columns_kernel<A, T, R>, dim3((channels + tile_columns - 1) / tile_columns, y),
             dim3(tile_columns, tile_rows), 0, grad, reference, f.signs, bias, grad_x, sums_data, extent, p);
    } else {
      launch(backward_rows_kernel<A, T, R>, dim3(channels, y), block_threads, 0, grad, reference, f.signs, bias, grad_x,
             sums_data, extent, p);
    }
    launch(sum_parts_kernel<T, R>, grid_for(channels, block_threads), block_threads, 0, sums_data,
           static_cast<T*>(f.grad_b.mutable_data_ptr()), parts, extent.channels);
  });
  return {f.grad_x, f.grad_b};
}

}  // namespace
}  // namespace fastunlearn::bias_act

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("bias_act", TORCH_BOX(&fastunlearn::bias_act::bias_act_cuda));
  m.impl("bias_act_backward", TORCH_BOX(&fastunlearn::bias_act::bias_act_backward_cuda));
}
