// latent_projection on CUDA: launches and registration.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/launch.h"
#include "latent_projection/latent_projection_kernel.cuh"

namespace fastunlearn::latent_projection {
namespace {

constexpr int64_t max_grid_y = 65535;

std::tuple<Tensor, Tensor, Tensor> latent_projection_cuda(const Tensor& z, const Tensor& target, const Tensor& norm,
                                                          double threshold, double margin, bool along_unit) {
  const char* op = "latent_projection";
  const CudaLauncher launch(op, z);
  const Arguments a(z, target, norm, {threshold, margin, along_unit});
  if (a.rows == 0) return {a.shifted, a.projection, a.mask};
  const dim3 threads(warp, rows_per_block);
  dispatch_floating(z.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    const T* latents = static_cast<const T*>(a.z.const_data_ptr());
    const T* direction = static_cast<const T*>(a.target.const_data_ptr());
    const double* length = static_cast<const double*>(norm.const_data_ptr());
    T* out = static_cast<T*>(a.shifted.mutable_data_ptr());
    auto* projection = static_cast<accumulate_t<T>*>(a.projection.mutable_data_ptr());
    const Rule rule = a.rule.rounded<accumulate_t<T>>();
    bool* mask = static_cast<bool*>(a.mask.mutable_data_ptr());
    if (a.columns <= warp_columns) {
      launch(rows_kernel<T>, static_cast<unsigned>((a.rows + rows_per_block - 1) / rows_per_block), threads, 0, latents,
             direction, length, out, projection, mask, a.rows, a.columns, rule);
      return;
    }
    const int64_t parts = (a.columns + part_columns - 1) / part_columns;
    const Tensor sums = torch::stable::new_empty(z, {a.rows * parts}, ScalarType::Double);
    double* products = static_cast<double*>(sums.mutable_data_ptr());
    for (int64_t first = 0; first < a.rows; first += max_grid_y) {
      const int64_t rows = a.rows - first < max_grid_y ? a.rows - first : max_grid_y, skip = first * a.columns;
      const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(rows));
      launch(parts_kernel<T>, grid, threads, 0, latents + skip, direction, products + first * parts, a.columns);
      launch(shift_kernel<T>, grid, threads, 0, latents + skip, direction, products + first * parts, length, out + skip,
             projection + first, mask + first, a.columns, rule);
    }
  });
  return {a.shifted, a.projection, a.mask};
}

}  // namespace
}  // namespace fastunlearn::latent_projection

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("latent_projection", TORCH_BOX(&fastunlearn::latent_projection::latent_projection_cuda));
}
