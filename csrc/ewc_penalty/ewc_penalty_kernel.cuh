// Device bodies of ewc_penalty besides the shared one: the value, and the factor of a stored gradient.
#pragma once

#include "ewc_penalty/weighted_square_kernel.cuh"

namespace fastunlearn::ewc_penalty {

using namespace weighted_square;

__global__ void __launch_bounds__(block_threads)
    ewc_penalty_kernel(const double* sums, int64_t count, double weight, void* value, bool is_double) {
  const double sum = sum_of_sums(sums, count);
  if (threadIdx.x == 0) store_scalar(value, is_double, weight * sum);
}

// Leaves at once where the factor is 1, as it is when the penalty is a summand of the loss.
template <typename T, typename F>
__global__ void __launch_bounds__(block_threads) scale_gradients_kernel(const ParameterTable table, const F* factor) {
  using Acc = accumulate_t<T>;
  const Acc by = static_cast<Acc>(*factor);
  if (by == Acc(1)) return;
  const auto [t, begin, end] = piece_of_block(table, blockIdx.x);
  T* grad = static_cast<T*>(table.result[t]);
  for (int64_t i = begin + threadIdx.x; i < end; i += block_threads) {
    grad[i] = static_cast<T>(by * static_cast<Acc>(grad[i]));
  }
}

}  // namespace fastunlearn::ewc_penalty
