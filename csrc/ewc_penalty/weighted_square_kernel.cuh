// Device bodies that ewc_penalty and parameter_repulsion share: Σ f (θ − a)² and scale · f (θ − a) at once.
// A block works on its piece of one tensor and writes its sum to a place of its own, one more block adds the sums in a
// fixed order: no atomics.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/dtype.h"
#include "common/parameter_tables.cuh"

namespace fastunlearn::weighted_square {

// The sum over the block, in the first thread; the order of the additions is fixed.
__device__ inline double block_sum(double sum) {
  __shared__ double warps[block_threads / 32];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < block_threads / 32; ++warp) sum += warps[warp];
  }
  return sum;
}

// Where `factor` is given it multiplies `scale`: the slope of a loss that the kernel before this one has finished.
template <typename T, bool WithFisher, bool WithValue, bool WithGrad>
__global__ void __launch_bounds__(block_threads)
    weighted_square_kernel(const ParameterTable table, double scale, const double* factor, double* sums) {
  using Acc = accumulate_t<T>;
  const auto [t, begin, end] = piece_of_block(table, blockIdx.x);
  const T* param = static_cast<const T*>(table.param[t]);
  const T* anchor = static_cast<const T*>(table.anchor[t]);
  const T* fisher = static_cast<const T*>(table.fisher[t]);
  T* grad = static_cast<T*>(table.result[t]);
  const Acc by = static_cast<Acc>((factor ? *factor * scale : scale) * table.weight[t]);
  Acc sum = 0;  // of at most block_span / block_threads = 16 terms
  for (int64_t i = begin + threadIdx.x; i < end; i += block_threads) {
    const Acc f = WithFisher ? static_cast<Acc>(fisher[i]) : Acc(1);
    const Acc difference = static_cast<Acc>(param[i]) - static_cast<Acc>(anchor[i]);
    if (WithGrad) grad[i] = static_cast<T>(by * f * difference);
    if (WithValue) sum += f * difference * difference;
  }
  if (WithValue) {
    const double total = block_sum(static_cast<double>(sum));
    if (threadIdx.x == 0) sums[blockIdx.x] = table.weight[t] * total;
  }
}

// One block: the sum of all sums, in the first thread.
__device__ inline double sum_of_sums(const double* sums, int64_t count) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += block_threads) sum += sums[i];
  return block_sum(sum);
}

__device__ inline void store_scalar(void* out, bool is_double, double value) {
  if (is_double) {
    *static_cast<double*>(out) = value;
  } else {
    *static_cast<float*>(out) = static_cast<float>(value);
  }
}

}  // namespace fastunlearn::weighted_square
