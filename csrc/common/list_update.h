// target ← step(target, source, factor) over lists, in place: what ema_update and fisher_accumulate have in common.
// A step is a function object on single elements, for host and device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <utility>
#include <vector>

#include "common/parameter_lists.h"

namespace fastunlearn {

// Pairs of equal layout. A target that is not dense is worked on in a copy, which `finish` writes back.
class UpdateLists {
 public:
  UpdateLists(const char* op, const std::vector<Tensor>& targets, const std::vector<Tensor>& sources) {
    STD_TORCH_CHECK(targets.size() == sources.size(), op, ": the lists must be equally long");
    parameters_.reserve(targets.size());
    for (size_t i = 0; i < targets.size(); ++i) {
      const Tensor *target = &targets[i], *source = &sources[i];
      STD_TORCH_CHECK(same_sizes(*target, *source), op, ": tensors must have the shapes of their partners");
      check_same_dtype_and_device(*target, *source, op, "a partner");
      STD_TORCH_CHECK(i == 0 || target->device() == targets[0].device(), op, ": tensors must be on one device");
      dispatch_floating(target->scalar_type(), op, [](auto) {});  // before the first is written
      if (!is_dense(*target)) {
        target = &detours_.emplace_back(*target, torch::stable::contiguous(*target)).second;
      }
      if (!same_layout(*source, *target)) {
        Tensor& kept = kept_.emplace_back(empty_with_strides_of(*target));
        torch::stable::copy_(kept, *source);
        source = &kept;
      }
      parameters_.push_back(
          {target->scalar_type(), target->numel(), 1.0, source->data_ptr(), nullptr, nullptr, target->data_ptr()});
    }
  }

  // The source in `param`, the target in `result`.
  const std::vector<Parameter>& parameters() const { return parameters_; }

  void finish() {
    for (auto& [target, dense] : detours_) torch::stable::copy_(target, dense);
  }

 private:
  std::vector<Parameter> parameters_;
  std::vector<Tensor> kept_;
  std::vector<std::pair<Tensor, Tensor>> detours_;
};

}  // namespace fastunlearn
