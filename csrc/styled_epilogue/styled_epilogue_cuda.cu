// styled_epilogue on CUDA: launches and registration.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "common/launch.h"
#include "styled_epilogue/styled_epilogue_arguments.h"
#include "styled_epilogue/styled_epilogue_kernel.cuh"
#include "upfirdn2d/upfirdn2d_launch.cuh"

namespace fastunlearn::styled_epilogue {
namespace {

using upfirdn2d::MemoryFormat;

constexpr int64_t elements_per_part = 8192, max_parts = 256;
// Beside the sums of a block: the rest of the 48 KB that every card gives without being asked.
constexpr size_t patch_bytes = 40 * 1024;

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

// The least power of two that is n or more, up to 2^most, as its exponent.
int log_of(int64_t n, int most) {
  int log = 0;
  while (log < most && (int64_t{1} << log) < n) ++log;
  return log;
}

// Tiles for the adjoint of a filter of at most max_taps · max_taps, and the shared memory that they take. An image has
// one row and one column more than a power of two where a transposed convolution made it.
std::pair<Patches, size_t> patches_of(const upfirdn2d::Arguments& a, int64_t channels, size_t bytes_per_element) {
  using upfirdn2d::ceil_div;
  const upfirdn2d::Axis &vertical = a.vertical, &horizontal = a.horizontal;
  Patches q{upfirdn2d::filter_of(a), vertical, horizontal, 0, 0, 0, 0, 0, 0, 0, 0};
  const int64_t most_rows = a.channels_last ? 17 : 33, most_columns = a.channels_last ? 17 : 65;
  q.down = ceil_div(vertical.out, most_rows);
  q.across = ceil_div(horizontal.out, most_columns);
  q.rows = static_cast<int>(ceil_div(vertical.out, q.down));
  q.columns = static_cast<int>(ceil_div(horizontal.out, q.across));
  const int64_t wide = (q.rows + vertical.taps - 1) * (q.columns + horizontal.taps - 1);
  const int log_threads = log_of(layer_threads, 31);
  const auto bytes = [&] { return (upfirdn2d::elements_of(q.filter) + (wide << q.log_deep)) * bytes_per_element; };
  if (a.channels_last) {
    q.log_deep = log_of(channels, 4);
    while (bytes() > patch_bytes) --q.log_deep;
    q.log_columns = (log_threads - q.log_deep) / 2;
    q.log_rows = log_threads - q.log_deep - q.log_columns;
  } else {
    q.log_columns = log_of(q.columns + horizontal.taps - 1, 5);
    q.log_rows = log_of(ceil_div<int64_t>(q.rows, strip), log_threads - q.log_columns);
    q.log_deep = std::min(log_of(channels, 31), log_threads - q.log_columns - q.log_rows);
    while (bytes() > patch_bytes) --q.log_deep;
    q.log_rows = log_threads - q.log_columns - q.log_deep;
  }
  q.share = std::max<int64_t>(ceil_div<int64_t>(elements_per_part, int64_t{q.rows} * q.columns),
                              ceil_div(q.down * q.across, max_parts));
  return {q, bytes()};
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
  const Tensor filter = filter_or_one(f, y);
  const int64_t tail_x = filter.size(filter.dim() - 1) - 1, tail_y = filter.size(0) - 1;
  const bool in_one_pass = f && tail_x < max_taps && tail_y < max_taps;
  const Tensor slopes = in_one_pass ? grads.y : torch::stable::empty_like(grads.y);
  const auto a = upfirdn2d::arguments(slopes, filter, 1, 1, 1, 1, tail_x - pad_x, tail_y - pad_y, in_h, in_w,
                                      !flip_filter, filter_gain);
  const int64_t images = y.size(0), channels = y.size(1), planes = images * channels;
  const int64_t area = y.size(2) * y.size(3);
  dispatch(y, act, op, [&](auto zero, auto activation) {
    using S = decltype(zero);
    using R = accumulate_t<S>;
    constexpr Activation A = activation.value;
    const auto layer = layer_of<R>(sides, grads.y, grads.channels_last, bias_act::parameters<R, S>(alpha, gain, clamp));
    const auto [patches, shared_bytes] =
        in_one_pass ? patches_of(a, channels, sizeof(R)) : std::pair<Patches, size_t>{};
    // Cut by shape alone, so that sums do not depend on the device.
    const int64_t parts = in_one_pass ? upfirdn2d::ceil_div(patches.down * patches.across, patches.share)
                                      : std::clamp<int64_t>(area / elements_per_part, 1, max_parts);
    const auto type = sizeof(R) == sizeof(double) ? ScalarType::Double : ScalarType::Float;
    const Tensor sums = torch::stable::new_empty(y, {parts * planes * styled_epilogue::sums}, type);
    const Tensor totals = torch::stable::new_empty(y, {2 * planes}, ScalarType::Double);
    auto* const sums_data = static_cast<Sums<R>*>(sums.mutable_data_ptr());
    auto* const totals_data = static_cast<double*>(totals.mutable_data_ptr());
    const S* const grad = static_cast<const S*>(grads.grad_y.const_data_ptr());
    const S* const output = static_cast<const S*>(grads.y.const_data_ptr());
    const auto grid = [&](int64_t blocks) { return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(parts)); };
    if (planes > 0) {
      if (in_one_pass) {
        const int64_t groups = upfirdn2d::ceil_div(channels, int64_t{1} << patches.log_deep);
        launch(backward_filter_kernel<A, S, R>, grid(images * groups), layer_threads, shared_bytes, grad, output,
               static_cast<S*>(a.y.mutable_data_ptr()), sums_data, patches, layer);
      } else if (grads.channels_last) {
        const int64_t tiles = upfirdn2d::ceil_div<int64_t>(channels, tile_columns);
        launch(backward_pixels_kernel<A, S, R>, grid(images * tiles), dim3(tile_columns, tile_rows), 0, grad, output,
               static_cast<S*>(slopes.mutable_data_ptr()), sums_data, images, layer);
      } else {
        launch(backward_planes_kernel<A, S, R>, grid(planes), layer_threads, 0, grad, output,
               static_cast<S*>(slopes.mutable_data_ptr()), sums_data, layer);
      }
      launch(finish_scale_kernel<R>, static_cast<unsigned>((planes + layer_threads - 1) / layer_threads), layer_threads,
             0, sums_data, parts, planes, scale ? static_cast<R*>(grads.grad_scale.mutable_data_ptr()) : nullptr,
             totals_data, totals_data + planes, layer);
    }
    launch(finish_rest_kernel<R>, 1, layer_threads, 0, totals_data, totals_data + planes, images, channels,
           b ? static_cast<R*>(grads.grad_b.mutable_data_ptr()) : nullptr,
           noise ? static_cast<R*>(grads.grad_strength.mutable_data_ptr()) : nullptr);
    if (f && !in_one_pass && a.y.numel() > 0) upfirdn2d::launch_filter<S>(launch, a, upfirdn2d::Unchanged{});
  });
  return {f ? a.y : slopes, grads.grad_scale, grads.grad_strength, grads.grad_b};
}

}  // namespace
}  // namespace fastunlearn::styled_epilogue

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("styled_epilogue", TORCH_BOX(&fastunlearn::styled_epilogue::styled_epilogue_cuda));
  m.impl("styled_epilogue_backward", TORCH_BOX(&fastunlearn::styled_epilogue::styled_epilogue_backward_cuda));
}
