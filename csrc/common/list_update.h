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
    for (size_t i = 0; i < targets.size(); ++i) {
      STD_TORCH_CHECK(same_sizes(targets[i], sources[i]), op, ": tensors must have the shapes of their partners");
      check_same_dtype_and_device(targets[i], sources[i], op, "a partner");
      STD_TORCH_CHECK(targets[i].device() == targets[0].device(), op, ": tensors must be on one device");
      Tensor target = targets[i], source = sources[i];
      if (!is_dense(target)) {
        target = torch::stable::contiguous(target);
        detours_.emplace_back(targets[i], target);
      }
      if (!same_layout(source, target)) {
        source = torch::stable::copy_(kept_.emplace_back(empty_with_strides_of(target)), source);
      }
      parameters_.push_back(
          {target.scalar_type(), target.numel(), 1.0, source.data_ptr(), nullptr, nullptr, target.data_ptr()});
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
