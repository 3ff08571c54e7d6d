// styled_epilogue on CUDA: launches and registration.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "common/launch.h"
#include "styled_epilogue/styled_epilogue_arguments.h"
#include "styled_epilogue/styled_epilogue_kernel.cuh"
#include "upfirdn2d/upfirdn2d_launch.cuh"

namespace fastunlearn::styled_epilogue {
namespace {

using upfirdn2d::MemoryFormat;

constexpr int64_t elements_per_part = 8192, max_parts = 256;

template <typename R>
Layer<R> layer_of(const Sides& sides, const Tensor& y, bool channels_last, const Parameters<R>& p) {
  return {static_cast<const R*>(sides.scale),
          static_cast<const R*>(sides.noise),
          static_cast<const R*>(sides.strength),
          static_cast<const R*>(sides.b),
          sides.noise_stride,
          y.size(1),
          y.size(3),
          y.size(2) * y.size(3),
          channels_last,
          p};
}

Tensor styled_epilogue_cuda(const Tensor& x, const std::optional<Tensor>& f, int64_t pad_x, int64_t pad_y,
                            int64_t out_h, int64_t out_w, bool flip_filter, double filter_gain,
                            const std::optional<Tensor>& scale, const std::optional<Tensor>& noise,
                            const std::optional<Tensor>& strength, const std::optional<Tensor>& b,
                            const std::string& act, double alpha, double gain, double clamp) {
  const char* op = "styled_epilogue";
  const CudaLauncher launch(op, x);
  const auto a =
      upfirdn2d::arguments(x, filter_or_one(f, x), 1, 1, 1, 1, pad_x, pad_y, out_h, out_w, flip_filter, filter_gain);
  const Sides sides(op, a.y, scale, noise, strength, b);
  if (a.y.numel() == 0) return a.y;
  dispatch(x, act, op, [&](auto zero, auto activation) {
    using S = decltype(zero);
    using R = accumulate_t<S>;
    constexpr Activation A = activation.value;
    const auto layer = layer_of<R>(sides, a.y, a.channels_last, bias_act::parameters<R, S>(alpha, gain, clamp));
    if (f) return upfirdn2d::launch_filter<S>(launch, a, Finish<A, R>{layer});
    const Tensor source =
        torch::stable::contiguous(x, a.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
    const int64_t n = a.y.numel();
    const auto kernel = n <= INT32_MAX ? forward_kernel<A, S, R, uint32_t> : forward_kernel<A, S, R, int64_t>;
    launch(kernel, grid_for(n, layer_threads), layer_threads, 0, static_cast<const S*>(source.const_data_ptr()),
           static_cast<S*>(a.y.mutable_data_ptr()), n, layer);
  });
  return a.y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> styled_epilogue_backward_cuda(
    const Tensor& grad_y, const Tensor& y, const std::optional<Tensor>& f, int64_t pad_x, int64_t pad_y, int64_t in_h,
    int64_t in_w, bool flip_filter, double filter_gain, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& noise, const std::optional<Tensor>& strength, const std::optional<Tensor>& b,
    const std::string& act, double alpha, double gain, double clamp) {
  const char* op = "styled_epilogue_backward";
  const CudaLauncher launch(op, y);
  Backward grads(op, grad_y, y, scale.has_value(), noise.has_value(), b.has_value());
  const Sides sides(op, grads.y, scale, noise, strength, b);
  const Tensor filter = filter_or_one(f, y), slopes = torch::stable::empty_like(grads.y);
  const int64_t tail_x = filter.size(filter.dim() - 1) - 1, tail_y = filter.size(0) - 1;
  const auto a = upfirdn2d::arguments(slopes, filter, 1, 1, 1, 1, tail_x - pad_x, tail_y - pad_y, in_h, in_w,
                                      !flip_filter, filter_gain);
  const int64_t images = y.size(0), channels = y.size(1), planes = images * channels;
  const int64_t area = y.size(2) * y.size(3);
  // Cut by shape alone, so that sums do not depend on the device.
  const int64_t parts = std::clamp<int64_t>(area / elements_per_part, 1, max_parts);
  dispatch(y, act, op, [&](auto zero, auto activation) {
    using S = decltype(zero);
    using R = accumulate_t<S>;
    constexpr Activation A = activation.value;
    const auto layer = layer_of<R>(sides, grads.y, grads.channels_last, bias_act::parameters<R, S>(alpha, gain, clamp));
    const auto type = sizeof(R) == sizeof(double) ? ScalarType::Double : ScalarType::Float;
    const Tensor sums = torch::stable::new_empty(y, {parts * planes * styled_epilogue::sums}, type);
    const Tensor totals = torch::stable::new_empty(y, {2 * planes}, ScalarType::Double);
    auto* const sums_data = static_cast<Sums<R>*>(sums.mutable_data_ptr());
    auto* const totals_data = static_cast<double*>(totals.mutable_data_ptr());
    const S* const grad = static_cast<const S*>(grads.grad_y.const_data_ptr());
    const S* const output = static_cast<const S*>(grads.y.const_data_ptr());
    S* const out = static_cast<S*>(slopes.mutable_data_ptr());
    if (planes > 0) {
      const auto along = static_cast<unsigned>(parts);
      if (grads.channels_last) {
        const int64_t tiles = (channels + tile_columns - 1) / tile_columns;
        launch(backward_pixels_kernel<A, S, R>, dim3(static_cast<unsigned>(images * tiles), along),
               dim3(tile_columns, tile_rows), 0, grad, output, out, sums_data, images, layer);
      } else {
        launch(backward_planes_kernel<A, S, R>, dim3(static_cast<unsigned>(planes), along), layer_threads, 0, grad,
               output, out, sums_data, layer);
      }
      launch(finish_scale_kernel<R>, static_cast<unsigned>((planes + layer_threads - 1) / layer_threads), layer_threads,
             0, sums_data, parts, planes, scale ? static_cast<R*>(grads.grad_scale.mutable_data_ptr()) : nullptr,
             totals_data, totals_data + planes, layer);
    }
    launch(finish_rest_kernel<R>, 1, layer_threads, 0, totals_data, totals_data + planes, images, channels,
           b ? static_cast<R*>(grads.grad_b.mutable_data_ptr()) : nullptr,
           noise ? static_cast<R*>(grads.grad_strength.mutable_data_ptr()) : nullptr);
    if (f && a.y.numel() > 0) upfirdn2d::launch_filter<S>(launch, a, upfirdn2d::Unchanged{});
  });
  return {f ? a.y : slopes, grads.grad_scale, grads.grad_strength, grads.grad_b};
}

}  // namespace
}  // namespace fastunlearn::styled_epilogue

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("styled_epilogue", TORCH_BOX(&fastunlearn::styled_epilogue::styled_epilogue_cuda));
  m.impl("styled_epilogue_backward", TORCH_BOX(&fastunlearn::styled_epilogue::styled_epilogue_backward_cuda));
}
