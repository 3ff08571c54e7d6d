// What both halves do before their kernels: check the arguments, lay out the scales, allocate the results.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "common/block_cache.h"
#include "common/checks.h"
#include "common/dtype.h"
#include "common/memory.h"
#include "ms_ssim/ms_ssim.h"

namespace fastunlearn::ms_ssim {

// Images of h × w, and the places of a window in them. The last scale is held to l · cs, the others to cs.
struct Scale {
  int64_t h, w, windows_h, windows_w;
  bool luminance;

  int64_t pixels() const { return h * w; }
  int64_t windows() const { return windows_h * windows_w; }
};

struct Arguments {
  Tensor x, y, win;
  std::vector<Scale> scales;
  int64_t planes, channels, taps, windows;  // `windows` is 1, or one for each channel
  double c1, c2;

  Arguments(const Tensor& given_x, const Tensor& given_y, const Tensor& given_win, double c1, double c2, int64_t levels,
            const char* op)
      : c1(c1), c2(c2) {
    STD_TORCH_CHECK(given_x.dim() == 4 && same_sizes(given_x, given_y), op, ": x and y must be [N, C, H, W]");
    STD_TORCH_CHECK(given_x.scalar_type() == ScalarType::Float || given_x.scalar_type() == ScalarType::Double, op,
                    ": x must be float32 or float64");
    check_same_dtype_and_device(given_x, given_y, op, "y");
    check_same_dtype_and_device(given_x, given_win, op, "win");
    x = torch::stable::contiguous(given_x);
    y = torch::stable::contiguous(given_y);
    win = torch::stable::contiguous(given_win);
    planes = x.size(0) * x.size(1), channels = x.size(1);
    STD_TORCH_CHECK(win.dim() == 2 && (win.size(0) == 1 || win.size(0) == channels) && win.size(1) > 0, op,
                    ": win must be [1, k] or [C, k]");
    windows = win.size(0), taps = win.size(1);
    STD_TORCH_CHECK(levels > 0, op, ": levels must be positive");
    int64_t h = x.size(2), w = x.size(3);
    for (int64_t level = 0; level < levels; ++level, h = halved(h), w = halved(w)) {
      STD_TORCH_CHECK(h >= taps && w >= taps, op, ": x must hold a window at every scale");
      scales.push_back({h, w, h - taps + 1, w - taps + 1, level == levels - 1});
    }
  }

  int64_t levels() const { return static_cast<int64_t>(scales.size()); }

  Tensor empty_values() const { return torch::stable::new_empty(x, {levels(), x.size(0), channels}); }

  Tensor empty_images(bool wanted = true) const {
    if (!wanted) return torch::stable::new_empty(x, {0});
    return in_used_memory(torch::stable::new_empty(x, {x.size(0), channels, x.size(2), x.size(3)}));
  }

  // The gradient by the values, [levels, planes].
  Tensor checked(const Tensor& grad, const char* op) const {
    STD_TORCH_CHECK(
        grad.dim() == 3 && grad.size(0) == levels() && grad.size(1) == x.size(0) && grad.size(2) == channels, op,
        ": grad must be [levels, N, C]");
    check_same_dtype_and_device(x, grad, op, "grad");
    return torch::stable::contiguous(grad);
  }
};

// The `taps` weights of a plane.
template <typename T>
const T* window_of(const Arguments& arguments, int64_t plane) {
  const T* const windows = static_cast<const T*>(arguments.win.const_data_ptr());
  return arguments.windows == 1 ? windows : windows + plane % arguments.channels * arguments.taps;
}

}  // namespace fastunlearn::ms_ssim
