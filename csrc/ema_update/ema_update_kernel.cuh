// Device body of ema_update.
#pragma once

#include "common/parameter_tables.cuh"
#include "ema_update/ema_update.h"

namespace fastunlearn::ema_update {

template <typename T>
__global__ void __launch_bounds__(block_threads) ema_update_kernel(const ParameterTable table, double weight) {
  const auto [t, begin, end] = piece_of_block(table, blockIdx.x);
  T* average = static_cast<T*>(table.grad[t]);
  const T* param = static_cast<const T*>(table.param[t]);
  for (int64_t i = begin + threadIdx.x; i < end; i += block_threads) {
    average[i] = step(average[i], param[i], static_cast<accumulate_t<T>>(weight));
  }
}

}  // namespace fastunlearn::ema_update
