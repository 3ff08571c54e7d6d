// Checks of what a kernel's pointers rely on. The readable checks of a user's arguments are in kernels/<op>/op.py;
// these guard the kernels against a direct call of the registered op.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>

namespace fastunlearn {

using torch::stable::Tensor;

// What the checks compare, read once: every question to a stable tensor is a call into libtorch, and an op on lists
// asks hundreds of them.
struct Form {
  int32_t dtype, device_type, device_index;
  int64_t dim, *sizes, *strides;

  Form(const Tensor& tensor) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &device_type));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &device_index));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(tensor.get(), &dim));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(tensor.get(), &sizes));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor.get(), &strides));
  }

  int64_t numel() const { return std::accumulate(sizes, sizes + dim, int64_t{1}, std::multiplies<int64_t>()); }
};

inline bool same_sizes(const Form& a, const Form& b) {
  return std::equal(a.sizes, a.sizes + a.dim, b.sizes, b.sizes + b.dim);
}

// True when element i of both lies at the same offset: equal sizes, and equal strides wherever a stride matters.
inline bool same_layout(const Form& a, const Form& b) {
  if (!same_sizes(a, b)) return false;
  if (a.numel() == 0) return true;
  for (int64_t d = 0; d < a.dim; ++d) {
    if (a.sizes[d] != 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

inline bool same_device(const Form& a, const Form& b) {
  return a.device_type == b.device_type && a.device_index == b.device_index;
}

inline void check_same_dtype_and_device(const Form& a, const Form& b, const char* op, const char* name) {
  STD_TORCH_CHECK(a.dtype == b.dtype && same_device(a, b), op, ": ", name,
                  " must have the dtype and the device of the first tensor");
}

}  // namespace fastunlearn
