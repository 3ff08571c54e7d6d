// 3×3 convolutions of many channels on the CPU: transforms into the cache, matrix products there, transforms back.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "common/block_cache.h"
#include "common/checks.h"
#include "common/dtype.h"
#include "common/launch.h"
#include "common/memory.h"
#include "conv2d/taps_cpu.h"
#include "conv2d/tiles_cpu.h"

namespace fastunlearn::conv2d {
namespace {

using torch::headeronly::MemoryFormat;

// Memory that nobody has written yet.
template <typename T>
class Scratch {
 public:
  Scratch(const Tensor& like, int64_t numel)
      : tensor_(in_used_memory(torch::stable::new_empty(like, {numel + 64 / int64_t{sizeof(T)}}))) {}

  // Begins on a line of the cache.
  T* data() const { return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(tensor_.data_ptr()) + 63) / 64 * 64); }

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
  return in_used_memory(torch::stable::empty({n, c, h, w}, like.scalar_type(), std::nullopt, like.device(),
                                             std::nullopt, MemoryFormat::ChannelsLast));
}

void check(const Tensor& x, const Tensor& other, const char* op, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4 && other.dim() == 4, op, ": tensors must have four dimensions");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double, op,
                  ": x must be float32 or float64");
  check_same_dtype_and_device(x, other, op, name);
}

void check_stride(int64_t stride, const char* op) {
  STD_TORCH_CHECK(stride == 1 || stride == 2, op, ": stride must be 1 or 2");
}

// Calls body(T{}) with the C++ type of x's numbers.
template <typename Body>
void dispatch(const Tensor& x, const Body& body) {
  x.scalar_type() == ScalarType::Double ? body(double{}) : body(float{});
}

// Tiles worth transforming at once, such that the bytes of their points stay near the core.
int64_t tiles_at_once(int64_t tiles, int64_t bytes_of_one) {
  constexpr int64_t near = int64_t{6} << 20, most = 192, least = 24;
  const int64_t fitting = std::clamp(near / bytes_of_one, least, most) / block_rows * block_rows;
  return std::min(fitting, tiles);
}

// Rows and columns of an image from which on larger tiles are the faster ones.
constexpr int64_t large_units_from = 16;

// The product whose number along the axes is (row, column), as the point of a factor.
constexpr int point_of(int product, int per_axis, const int* along_axis, int points) {
  return along_axis[product / per_axis] * points + along_axis[product % per_axis];
}

template <typename F, typename T>
void convolve(const Tensor& x, const Tensor& weight, Weight strides, int64_t padding, const Tensor& y) {
  constexpr int products = F::products, of_x = F::OfInputs::to, of_weight = F::OfWeights::to;
  const Image in = image_of(x), out = image_of(y);
  // The padding lies around the inputs; a transposed convolution's is cut off the outputs.
  const int64_t cut = F::transposed ? padding : 0;
  const int64_t rows = (out.h + cut + F::output_step - 1) / F::output_step;
  const int64_t columns = (out.w + cut + F::output_step - 1) / F::output_step;
  const Tiles in_tiles{rows, columns, F::input_step, F::first_input - (padding - cut)};
  const Tiles out_tiles{rows, columns, F::output_step, -cut};
  const int64_t total = out.n * rows * columns, inputs = in.channels, outputs = out.channels;

  const int64_t at_once =
      tiles_at_once(total, (of_x * of_x * inputs + products * products * panel_width<T>)*int64_t{sizeof(T)});
  const auto u = Points::in_panels<T>(of_weight * of_weight, inputs, outputs);
  const auto v = Points::in_rows<T>(of_x * of_x, at_once, inputs);
  const auto m = Points::in_rows<T>(products * products, at_once, panel_width<T>);
  const std::vector<T> zeros(inputs);

  const auto weight_points = [&](int64_t panel, T* right) {
    weight_to_points<typename F::OfWeights>(static_cast<const T*>(weight.const_data_ptr()), strides, inputs, panel,
                                            right, u);
  };
  const auto input_points = [&](int64_t begin, int64_t end, T* left) {
    tiles_to_points<typename F::OfInputs>(static_cast<const T*>(x.const_data_ptr()), in, in_tiles, begin, end, left, v,
                                          zeros.data());
  };
  // One panel of the outputs of tiles [begin, end).
  const auto multiply = [&](const T* left, const T* right, int64_t begin, int64_t end, int64_t panel, T* results) {
    for (int p = 0; p < products * products; ++p) {
      product(left + v.at(point_of(p, products, F::input_point, of_x), 0), v.of_row, 1,
              right + u.at(point_of(p, products, F::weight_point, of_weight), 0), results + m.at(p, 0), m.of_row,
              end - begin, u.columns_of(panel), inputs, false);
    }
    T waste[panel_width<T>];
    points_to_tiles<typename F::ToOutputs>(results, m, static_cast<T*>(y.mutable_data_ptr()) + panel * u.width, out,
                                           out_tiles, begin, end, u.columns_of(panel), waste);
  };

  if (at_once == total) {  // the weight's points are needed once: a panel of them at a time
    const Scratch<T> left(x, v.numel());
    parallel_range(total, v.n * inputs,
                   [&](int64_t first, int64_t last) { input_points(first, last, left.data() + first * v.of_row); });
    parallel_range(u.panels(), u.of_panel() * total, [&](int64_t first, int64_t last) {
      const Scratch<T> right(x, u.of_panel()), results(x, m.numel());
      for (int64_t panel = first; panel < last; ++panel) {
        weight_points(panel, right.data());
        multiply(left.data(), right.data(), 0, total, panel, results.data());
      }
    });
    return;
  }
  const Scratch<T> right(x, u.numel());
  parallel_range(u.panels(), u.of_panel(), [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) weight_points(panel, right.data() + u.at(0, panel));
  });
  parallel_range((total + at_once - 1) / at_once, v.numel() + m.numel(), [&](int64_t first, int64_t last) {
    const Scratch<T> left(x, v.numel()), results(x, m.numel());
    for (int64_t begin = first * at_once; begin < std::min(total, last * at_once); begin += at_once) {
      const int64_t end = std::min(begin + at_once, total);
      input_points(begin, end, left.data());
      for (int64_t panel = 0; panel < u.panels(); ++panel) {
        multiply(left.data(), right.data() + u.at(0, panel), begin, end, panel, results.data());
      }
    }
  });
}

// A transposed convolution of at most panel_width pixels; a convolution of stride 1 is one with the weight flipped.
template <typename T>
void convolve_few(const Tensor& x, const Tensor& weight, Weight strides, int64_t stride, int64_t padding,
                  const Tensor& y) {
  const Image in = image_of(x), out = image_of(y);
  const Scratch<T> columns(x, in.channels * panel_width<T>);
  pixels_to_columns(static_cast<const T*>(x.const_data_ptr()), in, columns.data());
  parallel_range(out.channels, 9 * in.channels, [&](int64_t first, int64_t last) {
    transposed_by_taps(columns.data(), in, static_cast<const T*>(weight.const_data_ptr()), strides, stride, padding,
                       static_cast<T*>(y.mutable_data_ptr()), out, first, last);
  });
}

template <typename F, typename T>
void weight_gradient(const Tensor& grad_y, const Tensor& x, int64_t padding, const Tensor& grad_weight) {
  constexpr int products = F::products, of_x = F::OfInputs::to, of_weight = F::OfWeights::to;
  constexpr int64_t most_at_once = 256;
  const Image in = image_of(x), out = image_of(grad_y);
  const int64_t rows = (out.h + F::output_step - 1) / F::output_step;
  const int64_t columns = (out.w + F::output_step - 1) / F::output_step;
  const Tiles in_tiles{rows, columns, F::input_step, -padding}, out_tiles{rows, columns, F::output_step, 0};
  const int64_t total = out.n * rows * columns, inputs = in.channels, outputs = out.channels;
  const int64_t at_once = std::min(total, most_at_once);

  const auto v = Points::in_panels<T>(of_x * of_x, at_once, inputs);
  const auto d = Points::in_rows<T>(products * products, at_once, outputs);
  const auto du = Points::in_rows<T>(of_weight * of_weight, outputs, inputs);
  const Scratch<T> right(x, v.numel()), left(x, d.numel()), sums(x, du.numel());
  const std::vector<T> zeros(std::max(inputs, outputs));
  for (int64_t begin = 0; begin < total; begin += at_once) {
    const int64_t end = std::min(begin + at_once, total);
    parallel_range(end - begin, d.n * (inputs + outputs), [&](int64_t first, int64_t last) {
      tiles_to_points<typename F::OfInputs>(static_cast<const T*>(x.const_data_ptr()), in, in_tiles, begin + first,
                                            begin + last, right.data() + first * v.of_row, v, zeros.data());
      tiles_to_points<typename F::OfOutputGradients>(static_cast<const T*>(grad_y.const_data_ptr()), out, out_tiles,
                                                     begin + first, begin + last, left.data() + first * d.of_row, d,
                                                     zeros.data());
    });
    parallel_range(du.n * v.panels(), outputs * v.width * (end - begin), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t point = i / v.panels(), panel = i % v.panels();
        bool add = begin > 0;
        for (int p = 0; p < products * products; ++p) {
          if (point_of(p, products, F::weight_point, of_weight) != point) continue;
          product(left.data() + d.at(p, 0), 1, d.of_row,
                  right.data() + v.at(point_of(p, products, F::input_point, of_x), panel),
                  sums.data() + du.at(point, 0) + panel * v.width, du.of_row, outputs, v.columns_of(panel), end - begin,
                  add);
          add = true;
        }
      }
    });
  }
  parallel_range(outputs, du.n * inputs, [&](int64_t first, int64_t last) {
    points_to_weight<typename F::ToWeightGradients>(sums.data(), du, static_cast<T*>(grad_weight.mutable_data_ptr()),
                                                    first, last);
  });
}

// Pixels of the result along an axis of n.
int64_t size_of_result(int64_t n, int64_t stride, int64_t padding, bool transposed, int64_t rest) {
  return transposed ? (n - 1) * stride + 3 - 2 * padding + rest : (n + 2 * padding - 3) / stride + 1;
}

Tensor winograd_conv2d_cpu(const Tensor& given_x, const Tensor& weight, int64_t stride, int64_t padding,
                           bool transposed, int64_t rest_h, int64_t rest_w) {
  const char* op = "winograd_conv2d";
  check(given_x, weight, op, "weight");
  check_stride(stride, op);
  const int64_t inputs = weight.size(transposed ? 0 : 1), outputs = weight.size(transposed ? 1 : 0);
  STD_TORCH_CHECK(weight.size(2) == 3 && weight.size(3) == 3 && given_x.size(1) == inputs, op,
                  ": weight must be 3 × 3, of x's channels");
  const int64_t most_rest = transposed ? stride : 1;
  STD_TORCH_CHECK(rest_h >= 0 && rest_w >= 0 && rest_h < most_rest && rest_w < most_rest, op,
                  ": rest must be less than the stride, and 0 unless transposed");
  const int64_t out_h = size_of_result(given_x.size(2), stride, padding, transposed, rest_h);
  const int64_t out_w = size_of_result(given_x.size(3), stride, padding, transposed, rest_w);
  STD_TORCH_CHECK(padding >= 0 && out_h > 0 && out_w > 0, op, ": x must be as large as the weight, padded");
  const Tensor y = empty_pixels(given_x, given_x.size(0), outputs, out_h, out_w), x = pixels_together(given_x);
  if (y.numel() == 0) return y;
  if (x.numel() == 0) return torch::stable::fill_(y, 0.0);
  const int64_t row = weight.stride(2), column = weight.stride(3), outer = weight.stride(0), inner = weight.stride(1);
  const Weight as_it_is{outer, inner, row, column, 0}, swapped{inner, outer, row, column, 0};
  const auto flipped = [&](Weight w) { return Weight{w.of_output, w.of_input, -row, -column, 2 * (row + column)}; };
  const int64_t flipped_padding = 2 - padding;
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    const bool few = x.numel() <= panel_width<T> * inputs && row == 3 * column;
    if (few && transposed) {
      convolve_few<T>(x, weight, swapped, stride, padding, y);
    } else if (few && stride == 1) {
      convolve_few<T>(x, weight, flipped(as_it_is), 1, flipped_padding, y);
    } else if (stride == 1) {
      const Weight order = transposed ? flipped(swapped) : as_it_is;
      const int64_t around = transposed ? flipped_padding : padding;
      std::min(out_h, out_w) < large_units_from ? convolve<Unit, T>(x, weight, order, around, y)
                                                : convolve<LargeUnit, T>(x, weight, order, around, y);
    } else {
      transposed ? convolve<Up, T>(x, weight, swapped, padding, y) : convolve<Down, T>(x, weight, as_it_is, padding, y);
    }
  });
  return y;
}

Tensor winograd_conv2d_weight_gradient_cpu(const Tensor& given_grad_y, const Tensor& given_x, int64_t stride,
                                           int64_t padding) {
  const char* op = "winograd_conv2d_weight_gradient";
  check(given_x, given_grad_y, op, "grad_y");
  check_stride(stride, op);
  STD_TORCH_CHECK(padding >= 0 && given_grad_y.size(0) == given_x.size(0) &&
                      given_grad_y.size(2) == size_of_result(given_x.size(2), stride, padding, false, 0) &&
                      given_grad_y.size(3) == size_of_result(given_x.size(3), stride, padding, false, 0),
                  op, ": grad_y must have the size of the convolution's result");
  const Tensor x = pixels_together(given_x), grad_y = pixels_together(given_grad_y);
  const Tensor grad_weight = empty_pixels(x, grad_y.size(1), x.size(1), 3, 3);
  if (grad_weight.numel() == 0) return grad_weight;
  if (grad_y.numel() == 0) return torch::stable::fill_(grad_weight, 0.0);
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    stride == 1 ? weight_gradient<Unit, T>(grad_y, x, padding, grad_weight)
                : weight_gradient<Down, T>(grad_y, x, padding, grad_weight);
  });
  return grad_weight;
}

}  // namespace
}  // namespace fastunlearn::conv2d

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("winograd_conv2d", TORCH_BOX(&fastunlearn::conv2d::winograd_conv2d_cpu));
  m.impl("winograd_conv2d_weight_gradient", TORCH_BOX(&fastunlearn::conv2d::winograd_conv2d_weight_gradient_cpu));
}
