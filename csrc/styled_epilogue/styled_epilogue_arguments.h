// What both halves do around their kernels: check the arguments and allocate the results.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "common/checks.h"
#include "common/dtype.h"
#include "common/memory.h"
#include "styled_epilogue/styled_epilogue.h"
#include "upfirdn2d/upfirdn2d_arguments.h"

namespace fastunlearn::styled_epilogue {

// The tensors beside x, in the kernel's arithmetic: float32, or float64 for x in float64. Null where absent.
struct Sides {
  const void *scale, *noise, *strength, *b;  // [N, C], [N or 1, 1, H', W'], [], [C]
  int64_t noise_stride;                      // from one image's noise to the next; 0 if they share it

  Sides(const char* op, const Tensor& y, const std::optional<Tensor>& scale_, const std::optional<Tensor>& noise_,
        const std::optional<Tensor>& strength_, const std::optional<Tensor>& b_)
      : scale(pointer(op, y, scale_, "scale")),
        noise(pointer(op, y, noise_, "noise")),
        strength(pointer(op, y, strength_, "strength")),
        b(pointer(op, y, b_, "b")),
        noise_stride(0) {
    const int64_t n = y.size(0), c = y.size(1), h = y.size(2), w = y.size(3);
    STD_TORCH_CHECK(!scale_ || (scale_->dim() == 2 && scale_->size(0) == n && scale_->size(1) == c), op,
                    ": scale must be [N, C]");
    STD_TORCH_CHECK(!b_ || (b_->dim() == 1 && b_->size(0) == c), op, ": b must be [C]");
    STD_TORCH_CHECK(!strength_ || strength_->numel() == 1, op, ": strength must have one element");
    STD_TORCH_CHECK(noise_.has_value() == strength_.has_value(), op, ": noise and strength belong together");
    if (noise_) {
      STD_TORCH_CHECK(noise_->dim() == 4 && (noise_->size(0) == n || noise_->size(0) == 1) && noise_->size(1) == 1 &&
                          noise_->size(2) == h && noise_->size(3) == w,
                      op, ": noise must be [N or 1, 1, H', W']");
      noise_stride = noise_->size(0) == 1 ? 0 : h * w;
    }
  }

 private:
  static const void* pointer(const char* op, const Tensor& y, const std::optional<Tensor>& side, const char* name) {
    if (!side) return nullptr;
    const auto dtype = y.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    STD_TORCH_CHECK(side->scalar_type() == dtype && side->device() == y.device() && side->is_contiguous(), op, ": ",
                    name, " must be contiguous, on x's device, and float32 (float64 for x in float64)");
    return side->const_data_ptr();
  }
};

// The filter that leaves an image as it is, where none is given.
inline Tensor filter_or_one(const std::optional<Tensor>& f, const Tensor& x) {
  if (f) return *f;
  return torch::stable::fill_(torch::stable::new_empty(x, {1}, ScalarType::Float), 1.0);
}

// Arguments of the backward pass, in y's order of memory.
struct Backward {
  Tensor y, grad_y, grad_scale, grad_strength, grad_b;
  bool channels_last;

  Backward(const char* op, const Tensor& grad, const Tensor& output, bool scaled, bool noisy, bool biased)
      : y(output), channels_last(upfirdn2d::is_channels_last(output)) {
    using upfirdn2d::MemoryFormat;
    check_same_dtype_and_device(grad, output, op, "y");
    STD_TORCH_CHECK(output.dim() == 4 && same_sizes(grad, output), op, ": y must be [N, C, H', W'] as grad_y is");
    const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
    y = torch::stable::contiguous(output, format);
    grad_y = torch::stable::contiguous(grad, format);
    const auto dtype = y.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    grad_scale = torch::stable::new_empty(y, {scaled ? y.size(0) : 0, y.size(1)}, dtype);
    grad_strength = noisy ? torch::stable::new_empty(y, {}, dtype) : torch::stable::new_empty(y, {0}, dtype);
    grad_b = torch::stable::new_empty(y, {biased ? y.size(1) : 0}, dtype);
  }
};

// Calls body(T{}, std::integral_constant<Activation, …>{}) for the dtype of x and the activation's name.
template <typename Body>
void dispatch(const Tensor& x, const std::string& act, const char* op, Body&& body) {
  const bool known = bias_act::dispatch_activation(act.c_str(), [&](auto activation) {
    if constexpr (bias_act::is_piecewise_linear(activation.value)) {
      dispatch_floating(x.scalar_type(), op, [&](auto zero) { body(zero, activation); });
    } else {
      STD_TORCH_CHECK(false, op, ": act must be linear, relu or lrelu, got ", act);
    }
  });
  STD_TORCH_CHECK(known, op, ": unknown activation ", act);
}

}  // namespace fastunlearn::styled_epilogue
