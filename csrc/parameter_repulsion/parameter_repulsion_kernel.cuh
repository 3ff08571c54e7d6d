// The device body of parameter_repulsion besides the shared one: value, distance and slope from the sums.
#pragma once

#include "ewc_penalty/weighted_square_kernel.cuh"
#include "parameter_repulsion/parameter_repulsion.h"

namespace fastunlearn::parameter_repulsion {

__global__ void __launch_bounds__(block_threads)
    parameter_repulsion_kernel(const double* sums, int64_t count, const Loss loss, void* value, void* distance,
                               bool is_double, double* slope) {
  const double sum = weighted_square::sum_of_sums(sums, count);
  if (threadIdx.x == 0) {
    const double x = sum + loss.spread;
    weighted_square::store_scalar(value, is_double, loss.value(x));
    weighted_square::store_scalar(distance, is_double, x);
    *slope = loss.slope(x);
  }
}

}  // namespace fastunlearn::parameter_repulsion
