// ema_update on CUDA.
#include "common/list_update.cuh"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "ema_update/ema_update.h"

namespace fastunlearn::ema_update {
namespace {

void ema_update_cuda(std::vector<Tensor> averages, std::vector<Tensor> params, double decay) {
  update_lists_cuda<Step>("ema_update_", averages, params, 1 - decay);
}

}  // namespace
}  // namespace fastunlearn::ema_update

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("ema_update_", TORCH_BOX(&fastunlearn::ema_update::ema_update_cuda));
}
