// 3×3 convolutions of many channels on the CPU: transforms into the cache, 16 matrix products there, transforms back.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "common/checks.h"
#include "common/dtype.h"
#include "common/launch.h"
#include "common/memory.h"
#include "winograd_conv2d/tiles_cpu.h"

namespace fastunlearn::winograd_conv2d {
namespace {

using torch::headeronly::MemoryFormat;

// Memory that nobody has written yet.
template <typename T>
class Scratch {
 public:
  Scratch(const Tensor& like, int64_t numel)
      : tensor_(with_huge_pages(torch::stable::new_empty(like, {numel + 64 / int64_t{sizeof(T)}}))) {}

  // Begins on a line of the cache.
  T* data() const {
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(tensor_.data_ptr()) + 63) / 64 * 64);
  }

 private:
  Tensor tensor_;
};

// x itself if its pixels' channels lie together, else a copy.
Tensor pixels_together(const Tensor& x) {
  if (x.stride(1) == 1 || x.size(1) == 1) return x;
  return torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
}

Image image_of(const Tensor& x) {
  return {x.size(0), x.size(2), x.size(3), x.size(1), x.stride(0), x.stride(2), x.stride(3)};
}

Tensor empty_pixels(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  return with_huge_pages(torch::stable::empty({n, c, h, w}, like.scalar_type(), std::nullopt, like.device(),
                                              std::nullopt, MemoryFormat::ChannelsLast));
}

void check(const Tensor& x, const Tensor& other, const char* op, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4 && other.dim() == 4, op, ": tensors must have four dimensions");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double, op,
                  ": x must be float32 or float64");
  check_same_dtype_and_device(x, other, op, name);
}

// Tiles worth transforming at once: their points, `channels` of both sides together, shall stay near the core; few
// enough that every thread gets some.
int64_t tiles_at_once(int64_t tiles, int64_t channels, int64_t element) {
  constexpr int64_t near = int64_t{6} << 20, most = 192, least = block_rows * 4;
  const int64_t fitting = std::clamp(near / (points * channels * element), least, most) / block_rows * block_rows;
  return std::max<int64_t>(1, std::min(fitting, tiles));
}

template <typename T>
void convolve(const Tensor& x, const Tensor& weight, Weight strides, int64_t outputs, int64_t padding, const Tensor& y) {
  const Image in = image_of(x), out = image_of(y);
  const Tiles tiles{(out.h + 1) / 2, (out.w + 1) / 2, padding};
  const int64_t total = out.n * tiles.of_image(), inputs = in.channels;
  const int64_t panels = (outputs + panel_width<T> - 1) / panel_width<T>;

  const Points u = Points::panels<T>(outputs, inputs);
  const Scratch<T> factors(x, u.numel());
  const T* w = static_cast<const T*>(weight.const_data_ptr());
  parallel_range(panels, points * panel_width<T> * inputs, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
      weights_to_points(w, strides, inputs, outputs, panel, factors.data() + panel * u.of_panel, u.of_point);
    }
  });

  const int64_t at_once = tiles_at_once(total, inputs + outputs, sizeof(T));
  const std::vector<T> zeros(inputs);
  parallel_range((total + at_once - 1) / at_once, at_once * points * (inputs + outputs), [&](int64_t first, int64_t last) {
    const Points v = Points::rows(inputs, at_once, sizeof(T)), m = Points::rows(outputs, at_once, sizeof(T));
    const Scratch<T> left(x, v.numel()), products(x, m.numel());
    std::vector<T> waste(outputs);
    for (int64_t begin = first * at_once, stop = std::min(total, last * at_once); begin < stop; begin += at_once) {
      const int64_t end = std::min(begin + at_once, stop);
      inputs_to_points(static_cast<const T*>(x.const_data_ptr()), in, tiles, begin, end, left.data(), v, zeros.data());
      for (int64_t point = 0; point < points; ++point) {
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int64_t column = panel * panel_width<T>;
          product(left.data() + point * v.of_point, v.of_tile, 1,
                  factors.data() + point * u.of_point + panel * u.of_panel,
                  products.data() + point * m.of_point + column, m.of_tile, end - begin,
                  std::min(panel_width<T>, outputs - column), inputs, false);
        }
      }
      points_to_outputs(products.data(), m, static_cast<T*>(y.mutable_data_ptr()), out, tiles, begin, end,
                        waste.data());
    }
  });
}

template <typename T>
void weight_gradient(const Tensor& grad_y, const Tensor& x, int64_t padding, const Tensor& grad_weight) {
  const Image in = image_of(x), out = image_of(grad_y);
  const Tiles tiles{(out.h + 1) / 2, (out.w + 1) / 2, padding}, of_gradient{tiles.rows, tiles.columns, 0};
  const int64_t total = out.n * tiles.of_image(), inputs = in.channels, outputs = out.channels;
  const int64_t panels = (inputs + panel_width<T> - 1) / panel_width<T>;
  const int64_t at_once = std::min<int64_t>(total, 256);

  const Points v = Points::panels<T>(inputs, at_once), d = Points::rows(outputs, at_once, sizeof(T));
  const Points du = Points::rows(inputs, outputs, sizeof(T));
  const Scratch<T> right(x, v.numel()), left(x, d.numel()), sums(x, du.numel());
  const std::vector<T> zeros(std::max(inputs, outputs));
  for (int64_t begin = 0; begin < total; begin += at_once) {
    const int64_t end = std::min(begin + at_once, total);
    parallel_range(end - begin, points * (inputs + outputs), [&](int64_t first, int64_t last) {
      inputs_to_points(static_cast<const T*>(x.const_data_ptr()), in, tiles, begin + first, begin + last,
                       right.data() + first * v.of_tile, v, zeros.data());
      gradients_to_points(static_cast<const T*>(grad_y.const_data_ptr()), out, of_gradient, begin + first,
                          begin + last, left.data() + first * d.of_tile, d, zeros.data());
    });
    parallel_range(points * panels, panel_width<T> * outputs * (end - begin), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t point = i / panels, panel = i % panels, column = panel * panel_width<T>;
        product(left.data() + point * d.of_point, 1, d.of_tile, right.data() + point * v.of_point + panel * v.of_panel,
                sums.data() + point * du.of_point + column, du.of_tile, outputs,
                std::min(panel_width<T>, inputs - column), end - begin, begin > 0);
      }
    });
  }
  parallel_range(outputs, points * inputs, [&](int64_t first, int64_t last) {
    points_to_weights(sums.data(), du, static_cast<T*>(grad_weight.mutable_data_ptr()), inputs, first, last);
  });
}

Tensor winograd_conv2d_cpu(const Tensor& given_x, const Tensor& weight, int64_t padding, bool adjoint) {
  const char* op = "winograd_conv2d";
  check(given_x, weight, op, "weight");
  const int64_t inputs = weight.size(adjoint ? 0 : 1), outputs = weight.size(adjoint ? 1 : 0);
  STD_TORCH_CHECK(weight.size(2) == 3 && weight.size(3) == 3 && given_x.size(1) == inputs, op,
                  ": weight must be 3 × 3, of x's channels");
  const int64_t edge = adjoint ? 2 - padding : padding;
  const int64_t out_h = given_x.size(2) + 2 * edge - 2, out_w = given_x.size(3) + 2 * edge - 2;
  STD_TORCH_CHECK(padding >= 0 && out_h >= 0 && out_w >= 0, op, ": x must be as large as the weight, padded");
  const Tensor y = empty_pixels(given_x, given_x.size(0), outputs, out_h, out_w), x = pixels_together(given_x);
  if (y.numel() == 0) return y;
  dispatch_floating(x.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, accumulate_t<T>>) {
      // The adjoint's weight is flipped: it is read from its last row and column on.
      const int64_t row = weight.stride(2), column = weight.stride(3);
      const Weight strides = adjoint ? Weight{weight.stride(1), weight.stride(0), -row, -column, 2 * (row + column)}
                                     : Weight{weight.stride(0), weight.stride(1), row, column, 0};
      convolve<T>(x, weight, strides, outputs, edge, y);
    }
  });
  return y;
}

Tensor winograd_conv2d_weight_gradient_cpu(const Tensor& given_grad_y, const Tensor& given_x, int64_t padding) {
  const char* op = "winograd_conv2d_weight_gradient";
  check(given_x, given_grad_y, op, "grad_y");
  STD_TORCH_CHECK(padding >= 0 && given_grad_y.size(0) == given_x.size(0) &&
                      given_grad_y.size(2) == given_x.size(2) + 2 * padding - 2 &&
                      given_grad_y.size(3) == given_x.size(3) + 2 * padding - 2,
                  op, ": grad_y must have the size of the convolution's result");
  const Tensor x = pixels_together(given_x), grad_y = pixels_together(given_grad_y);
  const Tensor grad_weight = empty_pixels(x, grad_y.size(1), x.size(1), 3, 3);
  if (grad_weight.numel() == 0) return grad_weight;
  if (grad_y.numel() == 0) return torch::stable::fill_(grad_weight, 0.0);
  dispatch_floating(x.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, accumulate_t<T>>) weight_gradient<T>(grad_y, x, padding, grad_weight);
  });
  return grad_weight;
}

}  // namespace
}  // namespace fastunlearn::winograd_conv2d

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("winograd_conv2d", TORCH_BOX(&fastunlearn::winograd_conv2d::winograd_conv2d_cpu));
  m.impl("winograd_conv2d_weight_gradient",
         TORCH_BOX(&fastunlearn::winograd_conv2d::winograd_conv2d_weight_gradient_cpu));
}
