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
    if (targets.empty()) return;
    const Form first(targets[0]);
    for (size_t i = 0; i < targets.size(); ++i) {
      const Form given(targets[i]), source(sources[i]);
      STD_TORCH_CHECK(same_sizes(given, source), op, ": tensors must have the shapes of their partners");
      check_same_dtype_and_device(given, source, op, "a partner");
      STD_TORCH_CHECK(same_device(given, first), op, ": tensors must be on one device");
      const ScalarType dtype = targets[i].scalar_type();
      dispatch_floating(dtype, op, [](auto) {});  // before the first is written
      const bool dense = is_dense(given);
      if (!dense) detours_.emplace_back(targets[i], torch::stable::contiguous(targets[i]));
      const Tensor& target = dense ? targets[i] : detours_.back().second;
      const Form layout = dense ? given : Form(target);
      const bool alike = same_layout(source, layout);
      if (!alike) {
        kept_.push_back(empty_with_strides_of(layout));
        torch::stable::copy_(kept_.back(), sources[i]);
      }
      const Tensor& partner = alike ? sources[i] : kept_.back();
      parameters_.push_back({dtype, given.numel(), 1.0, partner.data_ptr(), nullptr, nullptr, target.data_ptr()});
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
