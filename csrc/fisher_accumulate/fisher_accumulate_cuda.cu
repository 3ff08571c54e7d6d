// fisher_accumulate on CUDA.
#include "common/list_update.cuh"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "fisher_accumulate/fisher_accumulate.h"

namespace fastunlearn::fisher_accumulate {
namespace {

void fisher_accumulate_cuda(std::vector<Tensor> fisher, std::vector<Tensor> grads, double weight) {
  update_lists_cuda<Step>("fisher_accumulate_", fisher, grads, weight);
}

}  // namespace
}  // namespace fastunlearn::fisher_accumulate

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("fisher_accumulate_", TORCH_BOX(&fastunlearn::fisher_accumulate::fisher_accumulate_cuda));
}
