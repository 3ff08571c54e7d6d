// Launches the shared device body over any number of tensors: one launch per dtype and table_size tensors.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "ewc_penalty/parameter_lists.h"
#include "ewc_penalty/weighted_square_kernel.cuh"

namespace fastunlearn::weighted_square {

template <bool WithFisher, bool WithValue, bool WithGrad>
void launch_all(const char* op, const std::vector<Launch>& launches, double scale, const double* factor,
                double* sums, cudaStream_t stream) {
  for (const Launch& launch : launches) {
    dispatch_floating(launch.dtype, op, [&](auto zero) {
      weighted_square_kernel<decltype(zero), WithFisher, WithValue, WithGrad>
          <<<launch.blocks(), block_threads, 0, stream>>>(launch.table, scale, factor, sums);
    });
    check_launch(op);
    if (WithValue) sums += launch.blocks();
  }
}

// Device memory for one number per block, and one more for the slope of a loss.
inline Tensor empty_sums(const Tensor& like, int64_t blocks) {
  const int64_t size = blocks + 1;
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(&size, 1),
                                  ScalarType::Double);
}

}  // namespace fastunlearn::weighted_square
