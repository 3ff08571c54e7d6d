// Convolutions of few pixels: every tap of an output times all pixels at once, and the results put where they belong.
//
//   y[o, s·r + k − p, s·c + l − p] += Σ_i w[o, i, k, l] x[i, r, c]
//
// The weight, which is most of what there is to read, is read once, as it lies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/launch.h"
#include "conv2d/products_cpu.h"
#include "conv2d/tiles_cpu.h"

namespace fastunlearn::conv2d {
namespace {

// The pixels of all images, one a column, zeros behind the last; rows are channels.
template <typename T>
void pixels_to_columns(const T* x, Image image, T* columns) {
  std::fill_n(columns, image.channels * panel_width<T>, T(0));
  for (int64_t i = 0; i < image.n; ++i) {
    for (int64_t row = 0; row < image.h; ++row) {
      for (int64_t column = 0; column < image.w; ++column, ++columns) {
        const T* pixel = x + image.at(i, row, column);
        for (int64_t channel = 0; channel < image.channels; ++channel)
          columns[channel * panel_width<T>] = pixel[channel];
      }
    }
  }
}

// Outputs [begin, end) of the transposed convolution of at most panel_width pixels, whose columns these are.
template <typename T>
void transposed_by_taps(const T* columns, Image in, const T* w, Weight weight, int64_t stride, int64_t padding, T* y,
                        Image out, int64_t begin, int64_t end) {
  constexpr int taps = 9;
  const int64_t rows = (in.h - 1) * stride + 3, width = (in.w - 1) * stride + 3;  // before the padding is cut off
  alignas(64) T products[taps * panel_width<T>];
  std::vector<T> sums(in.n * rows * width);
  for (int64_t output = begin; output < end; ++output) {
    product(w + weight.at(output, 0, 0), weight.of_column, weight.of_input, columns, products, panel_width<T>, taps,
            in.n * in.h * in.w, in.channels, false);
    std::fill(sums.begin(), sums.end(), T(0));
    for (int tap = 0; tap < taps; ++tap) {
      const T* of_tap = products + tap * panel_width<T>;
      for (int64_t row = 0; row < in.n * in.h; ++row) {
        const int64_t image = row / in.h;
        T* to = &sums[(image * rows + (row - image * in.h) * stride + tap / 3) * width + tap % 3];
        for (int64_t column = 0; column < in.w; ++column) to[column * stride] += *of_tap++;
      }
    }
    for (int64_t i = 0; i < out.n; ++i) {
      for (int64_t row = 0; row < out.h; ++row) {
        for (int64_t column = 0; column < out.w; ++column) {
          const int64_t from_row = row + padding, from_column = column + padding;
          const bool inside = from_row >= 0 && from_row < rows && from_column >= 0 && from_column < width;
          y[out.at(i, row, column) + output] = inside ? sums[(i * rows + from_row) * width + from_column] : T(0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fastunlearn::conv2d
