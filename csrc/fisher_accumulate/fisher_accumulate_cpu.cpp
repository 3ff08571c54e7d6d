// fisher_accumulate on the CPU.
#include "common/list_update_cpu.h"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "fisher_accumulate/fisher_accumulate.h"

namespace fastunlearn::fisher_accumulate {
namespace {

void fisher_accumulate_cpu(std::vector<Tensor> fisher, std::vector<Tensor> grads, double weight) {
  update_lists_cpu<Step>("fisher_accumulate_", fisher, grads, weight);
}

}  // namespace
}  // namespace fastunlearn::fisher_accumulate

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("fisher_accumulate_", TORCH_BOX(&fastunlearn::fisher_accumulate::fisher_accumulate_cpu));
}
