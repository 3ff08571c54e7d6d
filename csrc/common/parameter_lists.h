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

#include "common/checks.h"
#include "common/dtype.h"
#include "common/memory.h"
#include "common/parameter.h"

namespace fastunlearn {

// Every element has an address of its own and no gap lies between them, whatever the order of the dimensions.
inline bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous()) return true;
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides[a] < strides[b]; });
  int64_t expected = 1;
  for (const size_t d : order) {
    if (sizes[d] == 1) continue;
    if (strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

// Uninitialised, with the strides of `like`. The plain C call costs a third of empty_like through the
// dispatcher.
inline Tensor empty_with_strides_of(const Tensor& like) {
  int32_t dtype = 0, device_type = 0, device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle result = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(like.dim(), like.sizes().data(), like.strides().data(), dtype,
                                                  device_type, device_index, &result));
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
    for (size_t i = 0; i < n; ++i) {
      check_alike(op, params[0], params[i], anchors[i], "anchors");
      if (!fisher.empty()) check_alike(op, params[0], params[i], fisher[i], "fisher");
      add(params[i], anchors[i], fisher.empty() ? nullptr : &fisher[i],
          tensor_weights.empty() ? 1.0 : tensor_weights[i], with_grad);
    }
  }

  const std::vector<Parameter>& parameters() const { return parameters_; }

  // The gradients, once a kernel has filled them; where the layout needed a detour, this ends it.
  const std::vector<Tensor>& finish_grads() {
    for (auto& [grad, flat] : detours_) torch::stable::copy_(grad, flat);
    return grads_;
  }

 private:
  static void check_alike(const char* op, const Tensor& first, const Tensor& param, const Tensor& other,
                          const char* name) {
    STD_TORCH_CHECK(same_sizes(param, other), op, ": ", name, " must have the shapes of params");
    check_same_dtype_and_device(param, other, op, name);
    STD_TORCH_CHECK(param.device() == first.device(), op, ": params must be on one device");
  }

  const void* address(const Tensor& tensor, const Tensor& layout) {
    if (same_layout(tensor, layout)) return tensor.data_ptr();
    copies_.push_back(empty_with_strides_of(layout));
    torch::stable::copy_(copies_.back(), tensor);
    return copies_.back().data_ptr();
  }

  void add(const Tensor& param, const Tensor& anchor, const Tensor* fisher, double weight, bool with_grad) {
    const bool dense = is_dense(param);
    if (!dense) copies_.push_back(torch::stable::contiguous(param));
    const Tensor layout = dense ? param : copies_.back();
    void* grad_address = nullptr;
    if (with_grad) {
      Tensor flat = with_huge_pages(empty_with_strides_of(layout));
      grads_.push_back(dense ? flat : torch::stable::empty_like(param));
      if (!dense) detours_.emplace_back(grads_.back(), flat);
      grad_address = flat.data_ptr();
    }
    parameters_.push_back({param.scalar_type(), param.numel(), weight, layout.data_ptr(), address(anchor, layout),
                           fisher ? address(*fisher, layout) : nullptr, grad_address});
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
