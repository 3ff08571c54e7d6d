// m + (1 − decay) · (θ − m), and the lists as both halves see them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/macros/Macros.h>

#include <utility>
#include <vector>

#include "common/parameter_lists.h"

namespace fastunlearn::ema_update {

template <typename T>
C10_HOST_DEVICE inline T step(T average, T param, accumulate_t<T> weight) {
  const auto m = static_cast<accumulate_t<T>>(average);
  return static_cast<T>(m + weight * (static_cast<accumulate_t<T>>(param) - m));
}

// Pairs of equal layout. An average that is not dense is worked on in a copy, which `finish` writes back.
class Pairs {
 public:
  Pairs(std::vector<Tensor>& averages, const std::vector<Tensor>& params) {
    const char* op = "ema_update_";
    STD_TORCH_CHECK(averages.size() == params.size(), op, ": params must be as many as averages");
    for (size_t i = 0; i < averages.size(); ++i) {
      STD_TORCH_CHECK(same_sizes(averages[i], params[i]), op, ": params must have the shapes of averages");
      check_same_dtype_and_device(averages[i], params[i], op, "params");
      STD_TORCH_CHECK(averages[i].device() == averages[0].device(), op, ": averages must be on one device");
      Tensor average = averages[i], param = params[i];
      if (!is_dense(average)) {
        average = torch::stable::contiguous(average);
        detours_.emplace_back(averages[i], average);
      }
      if (!same_layout(param, average)) {
        param = torch::stable::copy_(kept_.emplace_back(empty_with_strides_of(average)), param);
      }
      parameters_.push_back(
          {average.scalar_type(), average.numel(), 1.0, param.data_ptr(), nullptr, nullptr, average.data_ptr()});
    }
  }

  // θ in `param`, m in `grad`.
  const std::vector<Parameter>& parameters() const { return parameters_; }

  void finish() {
    for (auto& [average, dense] : detours_) torch::stable::copy_(average, dense);
  }

 private:
  std::vector<Parameter> parameters_;
  std::vector<Tensor> kept_;
  std::vector<std::pair<Tensor, Tensor>> detours_;
};

}  // namespace fastunlearn::ema_update
