// What both halves do before their kernels: check the arguments, lay out the scales, allocate the results.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/dtype.h"
#include "common/memory.h"
#include "ms_ssim/ms_ssim.h"

namespace fastunlearn::ms_ssim {

// One scale: images [planes, h, w]. At every scale but the first they are means over 2 × 2 pixels of the one above.
struct Scale {
  Tensor x, y;
  int64_t h, w, windows_h, windows_w;
  bool luminance;  // the last scale is held to l · cs, the others to cs

  int64_t windows() const { return windows_h * windows_w; }
};

struct Arguments {
  Tensor win;
  std::vector<Scale> scales;
  int64_t planes, channels, taps;
  double c1, c2;

  Arguments(const Tensor& x, const Tensor& y, const Tensor& window, double c1, double c2, int64_t levels,
            const char* op)
      : win(torch::stable::contiguous(window)), c1(c1), c2(c2) {
    STD_TORCH_CHECK(x.dim() == 4, op, ": x must be [N, C, H, W]");
    STD_TORCH_CHECK(same_sizes(x, y), op, ": y must have the shape of x");
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double, op,
                    ": x must be float32 or float64");
    check_same_dtype_and_device(x, y, op, "y");
    check_same_dtype_and_device(x, win, op, "win");
    planes = x.size(0) * x.size(1), channels = x.size(1);
    STD_TORCH_CHECK(win.dim() == 2 && (win.size(0) == 1 || win.size(0) == channels) && win.size(1) > 0, op,
                    ": win must be [1, k] or [C, k]");
    STD_TORCH_CHECK(levels > 0, op, ": levels must be positive");
    taps = win.size(1);
    int64_t h = x.size(2), w = x.size(3);
    for (int64_t level = 0; level < levels; ++level, h = halved(h), w = halved(w)) {
      STD_TORCH_CHECK(h >= taps && w >= taps, op, ": x must be as large as the window at every scale");
      const bool first = level == 0;
      scales.push_back({first ? torch::stable::contiguous(x) : empty_images(x, h, w),
                        first ? torch::stable::contiguous(y) : empty_images(x, h, w), h, w, h - taps + 1, w - taps + 1,
                        level == levels - 1});
    }
  }

  // The window of a plane: `taps` weights.
  template <typename T>
  const T* window(int64_t plane) const {
    return static_cast<const T*>(win.const_data_ptr()) + (win.size(0) == 1 ? 0 : plane % channels * taps);
  }

  Tensor empty_images(const Tensor& like, int64_t h, int64_t w) const {
    return with_huge_pages(torch::stable::new_empty(like, {planes, h, w}));
  }

  Tensor empty_values(const Tensor& x) const {
    return torch::stable::new_empty(x, {static_cast<int64_t>(scales.size()), x.size(0), x.size(1)});
  }

  void check_grad(const Tensor& grad, const Tensor& x, const char* op) const {
    STD_TORCH_CHECK(grad.dim() == 3 && grad.size(0) == static_cast<int64_t>(scales.size()) &&
                        grad.size(1) == x.size(0) && grad.size(2) == channels,
                    op, ": grad must be [levels, N, C]");
    check_same_dtype_and_device(x, grad, op, "grad");
  }
};

// The gradients of the images at every scale; those of y only on request.
class Gradients {
 public:
  Gradients(const Arguments& arguments, const Tensor& x, bool both_images) : both_(both_images) {
    for (const Scale& scale : arguments.scales) {
      const bool first = x_.empty();
      x_.push_back(first ? result(x, true) : arguments.empty_images(x, scale.h, scale.w));
      y_.push_back(first ? result(x, both_) : both_ ? arguments.empty_images(x, scale.h, scale.w) : y_[0]);
    }
  }

  template <typename T>
  T* x(size_t level) const {
    return level < x_.size() ? static_cast<T*>(x_[level].mutable_data_ptr()) : nullptr;
  }
  template <typename T>
  T* y(size_t level) const {
    return both_ && level < y_.size() ? static_cast<T*>(y_[level].mutable_data_ptr()) : nullptr;
  }
  std::tuple<Tensor, Tensor> results() const { return {x_[0], y_[0]}; }

 private:
  static Tensor result(const Tensor& x, bool wanted) {
    if (!wanted) return torch::stable::new_empty(x, {0});
    return with_huge_pages(torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)}));
  }

  bool both_;
  std::vector<Tensor> x_, y_;
};

}  // namespace fastunlearn::ms_ssim
