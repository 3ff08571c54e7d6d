// ema_update on CUDA: one launch per table. Nothing here waits for the device.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "ema_update/ema_update_kernel.cuh"

namespace fastunlearn::ema_update {
namespace {

void ema_update_cuda(std::vector<Tensor> averages, std::vector<Tensor> params, double decay) {
  const char* op = "ema_update_";
  const CudaLauncher launch(op, averages[0]);
  Pairs pairs(averages, params);
  for (const auto& [dtype, table] : make_tables(pairs.parameters())) {
    dispatch_floating(dtype, op, [&, &table = table](auto zero) {
      launch(ema_update_kernel<decltype(zero)>, table.blocks(), block_threads, 0, table, 1 - decay);
    });
  }
  pairs.finish();
}

}  // namespace
}  // namespace fastunlearn::ema_update

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("ema_update_", TORCH_BOX(&fastunlearn::ema_update::ema_update_cuda));
}
