// What both halves do around their kernels: check the arguments, allocate, and find a dense layout to walk.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "bias_act/bias_act.h"
#include "common/block_cache.h"
#include "common/checks.h"
#include "common/dtype.h"
#include "common/memory.h"

namespace fastunlearn::bias_act {

inline const void* bias_pointer(const std::optional<Tensor>& b, const Tensor& x, int64_t dim, const char* op) {
  if (!b) return nullptr;
  check_same_dtype_and_device(x, *b, op, "b");
  STD_TORCH_CHECK(b->dim() == 1 && dim >= 0 && dim < x.dim() && b->size(0) == x.size(dim) && b->is_contiguous(), op,
                  ": b must be a contiguous vector along dimension dim of x");
  return b->const_data_ptr();
}

// The memory of a dense tensor, seen along dimension `dim` if the op needs it.
inline Extent extent_along(const Tensor& dense, int64_t dim, bool needed) {
  return needed ? extent_of(dense.numel(), dense.size(dim), dense.stride(dim)) : extent_of(dense.numel(), 1, 1);
}

// Signs do not say where a clamp was reached.
inline void check_signs(const std::string& act, double clamp, const char* op) {
  const bool known = dispatch_activation(act.c_str(), [&](auto activation) {
    STD_TORCH_CHECK(has_two_slopes(activation.value) && clamp < 0, op, ": signs are for relu and lrelu without clamp");
  });
  STD_TORCH_CHECK(known, op, ": unknown activation ", act);
}

// Arguments of the forward pass, ready for a kernel. x may be y itself: a strided x was copied there.
struct Forward {
  Tensor y, signs, x;
  const void* b;
  Extent extent;

  Forward(const Tensor& input, const std::optional<Tensor>& bias, int64_t dim, const std::string& act, double clamp,
          bool wants_signs)
      : y(in_used_memory(torch::stable::empty_like(input))),
        signs(torch::stable::new_empty(input, {wants_signs ? bias_act::sign_words(y.numel()) : 0}, ScalarType::Int)),
        x(input),
        b(bias_pointer(bias, input, dim, "bias_act")),
        extent(extent_along(y, dim, b != nullptr)) {
    if (wants_signs) check_signs(act, clamp, "bias_act");
    if (!same_layout(x, y)) x = torch::stable::copy_(y, input);
  }

  // Null if no signs are wanted (or there are none).
  uint32_t* sign_words() const {
    return signs.numel() == 0 ? nullptr : static_cast<uint32_t*>(signs.mutable_data_ptr());
  }
};

// Arguments of the backward pass; everything lies in memory as grad_x does.
struct Backward {
  Tensor grad_x, grad_b, grad_y, ref;
  const uint32_t* signs = nullptr;  // read in place of ref, unless null
  const void* b;
  Extent extent;

  Backward(const Tensor& grad, const Tensor& reference, const std::optional<Tensor>& sign_words,
           const std::optional<Tensor>& bias, int64_t dim, const std::string& act, double clamp, bool reduce,
           const char* op)
      : grad_x(in_used_memory(torch::stable::empty_like(reference))),
        grad_y(grad),
        ref(reference),
        b(bias_pointer(bias, reference, dim, op)) {
    check_same_dtype_and_device(grad, reference, op, "ref");
    STD_TORCH_CHECK(same_sizes(grad, reference), op, ": ref must have the shape of grad_y");
    STD_TORCH_CHECK(!reduce || (dim >= 0 && dim < reference.dim()), op, ": dim must be a dimension of ref");
    grad_b = torch::stable::new_empty(reference, {reduce ? reference.size(dim) : 0});
    extent = extent_along(grad_x, dim, reduce || b != nullptr);
    if (sign_words) {
      check_signs(act, clamp, op);
      STD_TORCH_CHECK(sign_words->scalar_type() == ScalarType::Int && sign_words->is_contiguous() &&
                          sign_words->numel() == bias_act::sign_words(reference.numel()) &&
                          sign_words->device() == reference.device() && same_layout(reference, grad_x),
                      op, ": signs must be those of a dense ref");
      signs = static_cast<const uint32_t*>(sign_words->const_data_ptr());
    } else if (!same_layout(ref, grad_x)) {
      ref = torch::stable::empty_like(grad_x);
      torch::stable::copy_(ref, reference);
    }
    if (!same_layout(grad_y, grad_x)) grad_y = torch::stable::copy_(grad_x, grad);
  }
};

// Calls body(T{}, std::integral_constant<Activation, …>{}) for the dtype of x and the activation's name.
template <typename Body>
void dispatch(const Tensor& x, const std::string& act, const char* op, Body&& body) {
  dispatch_floating(x.scalar_type(), op, [&](auto zero) {
    const bool known = dispatch_activation(act.c_str(), [&](auto activation) { body(zero, activation); });
    STD_TORCH_CHECK(known, op, ": unknown activation ", act);
  });
}

}  // namespace fastunlearn::bias_act
