// ema_update on the CPU.
#include "common/list_update_cpu.h"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "ema_update/ema_update.h"

namespace fastunlearn::ema_update {
namespace {

void ema_update_cpu(std::vector<Tensor> averages, std::vector<Tensor> params, double decay) {
  update_lists_cpu<Step>("ema_update_", averages, params, 1 - decay);
}

}  // namespace
}  // namespace fastunlearn::ema_update

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("ema_update_", TORCH_BOX(&fastunlearn::ema_update::ema_update_cpu));
}
