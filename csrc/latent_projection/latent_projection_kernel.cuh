// The device bodies of latent_projection: a warp a row where rows are short, else the products and the shift apart.
#pragma once

#include <cuda_runtime.h>

#include "latent_projection/latent_projection.h"

namespace fastunlearn::latent_projection {

constexpr int warp = 32, rows_per_block = 8, block_threads = warp * rows_per_block;
constexpr int64_t warp_columns = 2048;  // the longest row that one warp takes
constexpr int64_t part_columns = 8192;  // what one block takes of a longer one

// The sum over a warp, in every lane.
__device__ inline double warp_sum(double value) {
  for (int offset = warp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Block (8 rows), warp (row).
template <typename T>
__global__ void __launch_bounds__(block_threads)
    rows_kernel(const T* z, const T* target, const double* norm, T* out, accumulate_t<T>* projection, bool* mask,
                int64_t rows, int64_t columns, Rule rule) {
  const int64_t row = int64_t{blockIdx.x} * rows_per_block + threadIdx.y;
  if (row >= rows) return;  // a whole warp
  z += row * columns, out += row * columns;
  double product = 0;
  for (int64_t i = threadIdx.x; i < columns; i += warp) product += double(z[i]) * double(target[i]);
  const auto p = static_cast<accumulate_t<T>>(warp_sum(product) / *norm);
  const double step = rule.step(p, *norm);
  if (threadIdx.x == 0) projection[row] = p, mask[row] = double(p) >= rule.threshold;
  for (int64_t i = threadIdx.x; i < columns; i += warp) out[i] = step == 0 ? z[i] : shifted(z[i], target[i], step);
}

// Block (part, row): parts[row][part] is the product of this part of the row with the target.
template <typename T>
__global__ void __launch_bounds__(block_threads)
    parts_kernel(const T* z, const T* target, double* parts, int64_t columns) {
  __shared__ double sums[rows_per_block];
  const int64_t row = blockIdx.y, begin = blockIdx.x * part_columns;
  const int64_t end = begin + part_columns < columns ? begin + part_columns : columns;
  double product = 0;
  for (int64_t i = begin + threadIdx.y * warp + threadIdx.x; i < end; i += block_threads) {
    product += double(z[row * columns + i]) * double(target[i]);
  }
  product = warp_sum(product);
  if (threadIdx.x == 0) sums[threadIdx.y] = product;
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    for (int w = 1; w < rows_per_block; ++w) product += sums[w];
    parts[row * gridDim.x + blockIdx.x] = product;
  }
}

// Block (part, row): adds the row's parts, in their order, and shifts this part. Every block adds them anew: less work
// than one more launch.
template <typename T>
__global__ void __launch_bounds__(block_threads)
    shift_kernel(const T* z, const T* target, const double* parts, const double* norm, T* out,
                 accumulate_t<T>* projection, bool* mask, int64_t columns, Rule rule) {
  __shared__ double shared_step;
  const int64_t row = blockIdx.y, begin = blockIdx.x * part_columns;
  const int64_t end = begin + part_columns < columns ? begin + part_columns : columns;
  if (threadIdx.y == 0) {
    double product = 0;
    for (unsigned part = threadIdx.x; part < gridDim.x; part += warp) product += parts[row * gridDim.x + part];
    const auto p = static_cast<accumulate_t<T>>(warp_sum(product) / *norm);
    if (threadIdx.x == 0) {
      shared_step = rule.step(p, *norm);
      if (blockIdx.x == 0) projection[row] = p, mask[row] = double(p) >= rule.threshold;
    }
  }
  __syncthreads();
  const double step = shared_step;
  for (int64_t i = begin + threadIdx.y * warp + threadIdx.x; i < end; i += block_threads) {
    const T value = z[row * columns + i];
    out[row * columns + i] = step == 0 ? value : shifted(value, target[i], step);
  }
}

}  // namespace fastunlearn::latent_projection
