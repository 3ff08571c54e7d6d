// ms_ssim on CUDA: tile sizes, launches and registration. Scale after scale on one stream; nothing waits for the
// device.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "common/launch.h"
#include "ms_ssim/ms_ssim_arguments.h"
#include "ms_ssim/ms_ssim_kernel.cuh"

namespace fastunlearn::ms_ssim {
namespace {

constexpr int64_t shared_bytes_limit = 46 * 1024;  // of 48 KB; `parts` takes 2

// Tiles over rows × columns windows or pixels, halved until they fit into shared memory.
template <typename T>
Problem problem_of(const Arguments& arguments, const Scale& scale, int64_t rows, int64_t columns,
                   int64_t (*elements)(int64_t, int64_t, int64_t), const char* op) {
  int64_t tile_h = 16, tile_w = 32;
  const auto bytes = [&] { return elements(arguments.taps, tile_h, tile_w) * static_cast<int64_t>(sizeof(T)); };
  while (bytes() > shared_bytes_limit && tile_w > 1) {
    tile_w > tile_h ? tile_w /= 2 : tile_h /= 2;
  }
  STD_TORCH_CHECK(bytes() <= shared_bytes_limit, op, ": win must fit into shared memory, got ", arguments.taps,
                  " taps");
  return {arguments.planes,
          arguments.channels,
          scale.h,
          scale.w,
          scale.windows_h,
          scale.windows_w,
          (rows + tile_h - 1) / tile_h,
          (columns + tile_w - 1) / tile_w,
          static_cast<int>(arguments.taps),
          static_cast<int>(tile_h),
          static_cast<int>(tile_w),
          arguments.windows == 1,
          arguments.c1,
          arguments.c2};
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
const T* const_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// x and y at every scale, and the shift of every plane.
template <typename T>
struct Pyramid {
  std::vector<Tensor> x, y;
  Tensor shifts;

  Pyramid(const CudaLauncher& launch, const Arguments& a) : x{a.x}, y{a.y} {
    const int64_t planes = a.planes;
    shifts = torch::stable::new_empty(a.x, {planes});
    launch(shift_kernel<T>, grid_for(planes, block_threads), block_threads, 0, const_data<T>(a.x), const_data<T>(a.y),
           data<T>(shifts), planes, a.scales[0].h, a.scales[0].w);
    for (int64_t level = 1; level < a.levels(); ++level) {
      const Scale &above = a.scales[level - 1], &scale = a.scales[level];
      x.push_back(torch::stable::new_empty(a.x, {planes, scale.h, scale.w}));
      y.push_back(torch::stable::new_empty(a.x, {planes, scale.h, scale.w}));
      launch(halve_kernel<T>, grid_for(planes * scale.pixels(), block_threads), block_threads, 0,
             const_data<T>(x[level - 1]), const_data<T>(y[level - 1]), data<T>(x[level]), data<T>(y[level]), planes,
             above.h, above.w);
    }
  }
};

Tensor ms_ssim_cuda(const Tensor& x, const Tensor& y, const Tensor& win, double c1, double c2, int64_t levels) {
  const char* op = "ms_ssim";
  const CudaLauncher launch(op, x);
  const Arguments arguments(x, y, win, c1, c2, levels, op);
  const Tensor values = arguments.empty_values();
  if (arguments.planes == 0) return values;
  dispatch_floating(x.scalar_type(), op, [&](auto zero) {
    using T = accumulate_t<decltype(zero)>;
    const Pyramid<T> pyramid(launch, arguments);
    for (int64_t level = 0; level < levels; ++level) {
      const Scale& scale = arguments.scales[level];
      const Problem p = problem_of<T>(arguments, scale, scale.windows_h, scale.windows_w, elements_for_means, op);
      const Tensor sums = torch::stable::new_empty(x, {p.tiles()}, ScalarType::Double);
      launch(scale.luminance ? losses_kernel<true, T> : losses_kernel<false, T>, grid_for(p.tiles(), 1), block_threads,
             elements_for_means(p.taps, p.tile_h, p.tile_w) * sizeof(T), const_data<T>(pyramid.x[level]),
             const_data<T>(pyramid.y[level]), const_data<T>(arguments.win), const_data<T>(pyramid.shifts),
             data<double>(sums), p);
      launch(values_kernel<T>, grid_for(p.planes, block_threads), block_threads, 0, const_data<double>(sums),
             data<T>(values) + level * p.planes, p);
    }
  });
  return values;
}

template <bool BothImages, typename T>
void backward(const CudaLauncher& launch, const Arguments& arguments, const Tensor& grad, const Tensor& grad_x,
              const Tensor& grad_y, const char* op) {
  const Pyramid<T> pyramid(launch, arguments);
  Tensor below_x, below_y;
  for (int64_t level = arguments.levels() - 1; level >= 0; --level) {
    const Scale& scale = arguments.scales[level];
    const Problem windows = problem_of<T>(arguments, scale, scale.windows_h, scale.windows_w, elements_for_means, op);
    const Problem pixels = problem_of<T>(arguments, scale, scale.h, scale.w, elements_for_gradients, op);
    const int64_t size = arguments.planes * scale.windows();
    const Tensor slopes = torch::stable::new_empty(arguments.x, {(BothImages ? 4 : 3) * size});
    const T *const x = const_data<T>(pyramid.x[level]), *const y = const_data<T>(pyramid.y[level]);
    const T *const win = const_data<T>(arguments.win), *const shifts = const_data<T>(pyramid.shifts);
    launch(scale.luminance ? slopes_kernel<true, BothImages, T> : slopes_kernel<false, BothImages, T>,
           grid_for(windows.tiles(), 1), block_threads,
           elements_for_means(windows.taps, windows.tile_h, windows.tile_w) * sizeof(T), x, y, win, shifts,
           data<T>(slopes), size, windows);
    const auto images = [&](const Tensor& first, bool wanted) {
      return level == 0 || !wanted ? first
                                   : torch::stable::new_empty(arguments.x, {arguments.planes, scale.h, scale.w});
    };
    const Tensor here_x = images(grad_x, true), here_y = images(grad_y, BothImages);
    const bool last = level == arguments.levels() - 1;
    launch(gradients_kernel<BothImages, T>, grid_for(pixels.tiles(), 1), block_threads,
           elements_for_gradients(pixels.taps, pixels.tile_h, pixels.tile_w) * sizeof(T),
           const_data<T>(grad) + level * arguments.planes, x, y, win, shifts, const_data<T>(slopes), size,
           last ? nullptr : const_data<T>(below_x), last ? nullptr : const_data<T>(below_y), data<T>(here_x),
           data<T>(here_y), pixels);
    below_x = here_x, below_y = here_y;
  }
}

std::tuple<Tensor, Tensor> ms_ssim_backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& y,
                                                 const Tensor& win, double c1, double c2, int64_t levels,
                                                 bool both_images) {
  const char* op = "ms_ssim_backward";
  const CudaLauncher launch(op, x);
  const Arguments arguments(x, y, win, c1, c2, levels, op);
  const Tensor dense_grad = arguments.checked(grad, op);
  const Tensor grad_x = arguments.empty_images(), grad_y = arguments.empty_images(both_images);
  if (arguments.planes == 0) return {grad_x, grad_y};
  dispatch_floating(x.scalar_type(), op, [&](auto zero) {
    using T = accumulate_t<decltype(zero)>;
    const auto run = both_images ? backward<true, T> : backward<false, T>;
    run(launch, arguments, dense_grad, grad_x, grad_y, op);
  });
  return {grad_x, grad_y};
}

}  // namespace
}  // namespace fastunlearn::ms_ssim

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("ms_ssim", TORCH_BOX(&fastunlearn::ms_ssim::ms_ssim_cuda));
  m.impl("ms_ssim_backward", TORCH_BOX(&fastunlearn::ms_ssim::ms_ssim_backward_cuda));
}
