// Launches the shared device body over any number of tensors: one launch per table.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "common/parameter_lists.h"
#include "ewc_penalty/weighted_square_kernel.cuh"

namespace fastunlearn::weighted_square {

// The shared body over all tensors. `factor` may be null; `sums` takes count_blocks(tables) numbers where WithValue.
template <bool WithFisher, bool WithValue, bool WithGrad>
void launch_all(const CudaLauncher& launch, const char* op, const std::vector<TypedTable>& tables, double scale,
                const double* factor, double* sums) {
  for (const auto& [dtype, table] : tables) {
    dispatch_floating(dtype, op, [&, &table = table](auto zero) {
      launch(weighted_square_kernel<decltype(zero), WithFisher, WithValue, WithGrad>, table.blocks(), block_threads, 0,
             table, scale, factor, sums);
    });
    if (WithValue) sums += table.blocks();
  }
}

// Device memory for one number per block, and one more for the slope of a loss.
inline Tensor empty_sums(const Tensor& like, int64_t blocks) {
  const int64_t size = blocks + 1;
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(&size, 1), ScalarType::Double);
}

}  // namespace fastunlearn::weighted_square
