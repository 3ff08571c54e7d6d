// list_update on CUDA: one launch per table. Nothing here waits for the device.
#pragma once

#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "common/list_update.h"
#include "common/parameter_tables.cuh"

namespace fastunlearn {

template <typename Step, typename T>
__global__ void __launch_bounds__(block_threads) update_kernel(const ParameterTable table, double factor) {
  const auto [t, begin, end] = piece_of_block(table, blockIdx.x);
  T* target = static_cast<T*>(table.result[t]);
  const T* source = static_cast<const T*>(table.param[t]);
  for (int64_t i = begin + threadIdx.x; i < end; i += block_threads) {
    target[i] = Step()(target[i], source[i], static_cast<accumulate_t<T>>(factor));
  }
}

template <typename Step>
void update_lists_cuda(const char* op, const std::vector<Tensor>& targets, const std::vector<Tensor>& sources,
                       double factor) {
  const CudaLauncher launch(op, targets[0]);
  UpdateLists lists(op, targets, sources);
  for (const auto& [dtype, table] : make_tables(lists.parameters())) {
    dispatch_floating(dtype, op, [&, &table = table](auto zero) {
      launch(update_kernel<Step, decltype(zero)>, table.blocks(), block_threads, 0, table, factor);
    });
  }
  lists.finish();
}

}  // namespace fastunlearn
