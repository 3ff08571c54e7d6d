// Checks of what a kernel's pointers rely on. The readable checks of a user's arguments are in kernels/<op>/op.py;
// these guard the kernels against a direct call of the registered op.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

namespace fastunlearn {

using torch::stable::Tensor;

inline bool same_sizes(const Tensor& a, const Tensor& b) {
  const auto sizes_a = a.sizes(), sizes_b = b.sizes();
  if (sizes_a.size() != sizes_b.size()) return false;
  for (size_t i = 0; i < sizes_a.size(); ++i) {
    if (sizes_a[i] != sizes_b[i]) return false;
  }
  return true;
}

// True when element i of both lies at the same offset: equal sizes, and equal strides wherever a stride matters.
inline bool same_layout(const Tensor& a, const Tensor& b) {
  if (!same_sizes(a, b)) return false;
  if (a.numel() == 0) return true;
  const auto sizes = a.sizes(), strides_a = a.strides(), strides_b = b.strides();
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] != 1 && strides_a[i] != strides_b[i]) return false;
  }
  return true;
}

inline void check_same_dtype_and_device(const Tensor& a, const Tensor& b, const char* op, const char* name) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type() && a.device() == b.device(), op, ": ", name,
                  " must have the dtype and the device of the first tensor");
}

}  // namespace fastunlearn
