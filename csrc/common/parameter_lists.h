// Lists of tensors as flat memory. The ops on lists walk over [params, anchors, fisher, results] without
// concatenating anything; this is where shapes and strides end.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "common/block_cache.h"
#include "common/checks.h"
#include "common/dtype.h"
#include "common/memory.h"
#include "common/parameter.h"

namespace fastunlearn {

// Every element has an address of its own and no gap lies between them, whatever the order of the dimensions.
inline bool is_dense(const Form& form) {
  if (form.numel() == 0) return true;
  std::vector<int64_t> order(form.dim);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return form.strides[a] < form.strides[b]; });
  int64_t expected = 1;
  for (const int64_t d : order) {
    if (form.sizes[d] == 1) continue;
    if (form.strides[d] != expected) return false;
    expected *= form.sizes[d];
  }
  return true;
}

// Uninitialised, with the strides of `like`. The plain C call costs a third of empty_like through the
// dispatcher.
inline Tensor empty_with_strides_of(const Form& like) {
  AtenTensorHandle result = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(like.dim, like.sizes, like.strides, like.dtype, like.device_type,
                                                  like.device_index, &result));
  return Tensor(result);
}

class ParameterLists {
 public:
  // `fisher` and `tensor_weights` may be empty: ones.
  ParameterLists(const char* op, const std::vector<Tensor>& params, const std::vector<Tensor>& anchors,
                 const std::vector<Tensor>& fisher, const std::vector<double>& tensor_weights, bool with_grad) {
    const size_t n = params.size();
    STD_TORCH_CHECK(n > 0, op, ": params must hold at least one tensor");
    STD_TORCH_CHECK(anchors.size() == n, op, ": anchors must be as many as params");
    STD_TORCH_CHECK(fisher.empty() || fisher.size() == n, op, ": fisher must be as many as params");
    STD_TORCH_CHECK(tensor_weights.empty() || tensor_weights.size() == n, op,
                    ": tensor_weights must be as many as params");
    parameters_.reserve(n);
    if (with_grad) grads_.reserve(n);
    const Form first(params[0]);
    for (size_t i = 0; i < n; ++i) {
      const Form param(params[i]);
      STD_TORCH_CHECK(same_device(param, first), op, ": params must be on one device");
      const bool dense = is_dense(param);
      if (!dense) {
        check_copy(op, param);
        copies_.push_back(torch::stable::contiguous(params[i]));
      }
      const Tensor layout = dense ? params[i] : copies_.back();
      const Form form = dense ? param : Form(layout);
      parameters_.push_back({layout.scalar_type(), param.numel(), tensor_weights.empty() ? 1.0 : tensor_weights[i],
                             layout.data_ptr(), partner(op, "anchors", anchors[i], param, form),
                             fisher.empty() ? nullptr : partner(op, "fisher", fisher[i], param, form),
                             with_grad ? add_grad(params[i], dense, form) : nullptr});
    }
  }

  const std::vector<Parameter>& parameters() const { return parameters_; }

  // The gradients, once a kernel has filled them; where the layout needed a detour, this ends it.
  std::vector<Tensor> take_grads() {
    for (auto& [grad, flat] : detours_) torch::stable::copy_(grad, flat);
    return std::move(grads_);
  }

 private:
  // Memory is unlikely to hold more than this twice, and the system may kill a process that tries.
  static void check_copy(const char* op, const Form& form) {
    constexpr int64_t most_copied = int64_t{1} << 31;
    STD_TORCH_CHECK(form.numel() <= most_copied, op, ": more than 2^31 elements must be dense, in one layout");
  }

  // The address of a tensor that belongs to `param`, in `layout`.
  const void* partner(const char* op, const char* name, const Tensor& tensor, const Form& param, const Form& layout) {
    const Form form(tensor);
    STD_TORCH_CHECK(same_sizes(form, param), op, ": ", name, " must have the shapes of params");
    check_same_dtype_and_device(form, param, op, name);
    if (same_layout(form, layout)) return tensor.data_ptr();
    check_copy(op, form);
    copies_.push_back(empty_with_strides_of(layout));
    torch::stable::copy_(copies_.back(), tensor);
    return copies_.back().data_ptr();
  }

  void* add_grad(const Tensor& param, bool dense, const Form& layout) {
    Tensor flat = in_used_memory(empty_with_strides_of(layout));
    grads_.push_back(dense ? flat : torch::stable::empty_like(param));
    if (!dense) detours_.emplace_back(grads_.back(), flat);
    return flat.data_ptr();
  }

  std::vector<Parameter> parameters_;
  std::vector<Tensor> grads_, copies_;
  std::vector<std::pair<Tensor, Tensor>> detours_;
};

// The result's place: float32 unless a parameter is float64.
inline Tensor empty_scalar(const std::vector<Tensor>& params) {
  const bool any_double = std::any_of(params.begin(), params.end(),
                                      [](const Tensor& param) { return param.scalar_type() == ScalarType::Double; });
  return torch::stable::new_empty(params[0], {}, any_double ? ScalarType::Double : ScalarType::Float);
}

}  // namespace fastunlearn
