// Winograd's transforms over many channels: tiles of an image, or a weight, to points for the products, and back.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/launch.h"
#include "conv2d/products_cpu.h"
#include "conv2d/winograd.h"

namespace fastunlearn::conv2d {

// An image whose pixels' channels lie together, and the elements from one to the next.
struct Image {
  int64_t n, h, w, channels;
  int64_t of_image, of_row, of_pixel;

  // Elements before pixel (row, column) of image i; −1 outside.
  int64_t at(int64_t i, int64_t row, int64_t column) const {
    const bool inside = row >= 0 && row < h && column >= 0 && column < w;
    return inside ? i * of_image + row * of_row + column * of_pixel : -1;
  }
};

// Square tiles of an image, `step` pixels apart; the first begins at pixel (start, start).
struct Tiles {
  int64_t rows, columns, step, start;

  // Which image a tile belongs to, and its first pixel there.
  struct Place {
    int64_t image, top, left;
  };
  Place operator[](int64_t tile) const {
    const int64_t in_image = tile % (rows * columns);
    return {tile / (rows * columns), in_image / columns * step + start, in_image % columns * step + start};
  }
};

// Elements from one number of a weight to the next, and before its first.
struct Weight {
  int64_t of_output, of_input, of_row, of_column, start;

  // Elements before the weight of the first input in an output.
  int64_t at(int64_t output, int64_t row, int64_t column) const {
    return start + output * of_output + row * of_row + column * of_column;
  }
};

// Where transformed numbers lie: [panel, point, row, column of the panel].
struct Points {
  int64_t n, columns, width, of_row, of_point;

  // One panel of all columns. The strides keep rows and points from falling on the same lines of the cache.
  template <typename T>
  static Points in_rows(int64_t n, int64_t rows, int64_t columns) {
    constexpr int64_t line = 64 / sizeof(T);
    const int64_t width = (columns + line - 1) / line * line, of_row = width + line;
    return {n, columns, width, of_row, of_row * rows + 4 * line};
  }
  // The right factor of a product.
  template <typename T>
  static Points in_panels(int64_t n, int64_t rows, int64_t columns) {
    constexpr int64_t line = 64 / sizeof(T), width = panel_width<T>;
    return {n, columns, width, width, rows * width + 4 * line};
  }

  int64_t panels() const { return (columns + width - 1) / width; }
  int64_t of_panel() const { return n * of_point; }
  int64_t numel() const { return panels() * of_panel(); }
  int64_t columns_of(int64_t panel) const { return std::min(width, columns - panel * width); }
  int64_t at(int64_t point, int64_t panel) const { return panel * of_panel() + point * of_point; }
};

namespace {

// out = Transform(in) for channels [c, end), V at a time; returns the first that is left.
template <int V, typename Transform, typename T>
INLINE int64_t transform_vectors(const T* const* in, T* const* out, int64_t c, int64_t end) {
  constexpr int from = Transform::from * Transform::from, to = Transform::to * Transform::to;
  for (; c + V <= end; c += V) {
    Vector<T, V> values[from], results[to];
    for (int i = 0; i < from; ++i) values[i] = load<V>(in[i] + c);
    both_axes<Transform>(values, results);
    for (int i = 0; i < to; ++i) store<V, false>(out[i] + c, results[i]);
  }
  return c;
}

template <typename Transform, typename T>
INLINE void transform(const T* const* in, T* const* out, int64_t begin, int64_t end) {
  begin = transform_vectors<64 / sizeof(T), Transform>(in, out, begin, end);
  transform_vectors<1, Transform>(in, out, begin, end);
}

// Tiles [begin, end) of x to rows of points; `zeros` stands for pixels outside.
template <typename Transform, typename T>
FASTUNLEARN_CLONES void tiles_to_points(const T* x, Image image, Tiles tiles, int64_t begin, int64_t end, T* v,
                                        Points to, const T* zeros) {
  constexpr int side = Transform::from, n = Transform::to * Transform::to;
  for (int64_t tile = begin; tile < end; ++tile, v += to.of_row) {
    const auto place = tiles[tile];
    const T* in[side * side];
    for (int i = 0; i < side * side; ++i) {
      const int64_t at = image.at(place.image, place.top + i / side, place.left + i % side);
      in[i] = at < 0 ? zeros : x + at;
    }
    for (int64_t panel = 0; panel < to.panels(); ++panel) {
      const int64_t first = panel * to.width;
      T* out[n];
      for (int i = 0; i < n; ++i) out[i] = v + to.at(i, panel) - first;
      transform<Transform>(in, out, first, first + to.columns_of(panel));
    }
  }
}

// Rows of points to `columns` channels of tiles [begin, end) of y; pixels outside go to `waste`.
template <typename Transform, typename T>
FASTUNLEARN_CLONES void points_to_tiles(const T* m, Points from, T* y, Image image, Tiles tiles, int64_t begin,
                                        int64_t end, int64_t columns, T* waste) {
  constexpr int side = Transform::to, n = Transform::from * Transform::from;
  for (int64_t tile = begin; tile < end; ++tile, m += from.of_row) {
    const auto place = tiles[tile];
    const T* in[n];
    T* out[side * side];
    for (int i = 0; i < n; ++i) in[i] = m + from.at(i, 0);
    for (int i = 0; i < side * side; ++i) {
      const int64_t at = image.at(place.image, place.top + i / side, place.left + i % side);
      out[i] = at < 0 ? waste : y + at;
    }
    transform<Transform>(in, out, 0, columns);
  }
}

// A weight to one panel of points, at u: rows are inputs, columns outputs, those behind the last zeros. Where outputs
// lie apart in memory, the weights of some inputs are first put in order.
template <typename Transform, typename T>
FASTUNLEARN_CLONES void weight_to_points(const T* w, Weight weight, int64_t inputs, int64_t panel, T* u, Points to) {
  constexpr int taps = 9, n = Transform::to * Transform::to;
  constexpr int64_t width = panel_width<T>, block = 16;
  const int64_t columns = to.columns_of(panel);
  const bool in_order = weight.of_output == 1 && columns == width;
  alignas(64) T ordered[taps][block][width];
  if (columns < width) std::fill_n(&ordered[0][0][0], taps * block * width, T(0));
  const T* of_tap[taps];
  for (int tap = 0; tap < taps; ++tap) of_tap[tap] = w + weight.at(panel * width, tap / 3, tap % 3);
  for (int64_t begin = 0; begin < inputs; begin += block) {
    const int64_t end = std::min(begin + block, inputs);
    for (int tap = 0; tap < taps && !in_order; ++tap) {
      for (int64_t column = 0; column < columns; ++column) {
        const T* from = of_tap[tap] + column * weight.of_output + begin * weight.of_input;
        __builtin_prefetch(from + block * weight.of_input);
        for (int64_t i = 0; i < end - begin; ++i) ordered[tap][i][column] = from[i * weight.of_input];
      }
    }
    for (int64_t input = begin; input < end; ++input) {
      const T* in[taps];
      T* out[n];
      for (int tap = 0; tap < taps; ++tap) {
        in[tap] = in_order ? of_tap[tap] + input * weight.of_input : ordered[tap][input - begin];
      }
      for (int i = 0; i < n; ++i) out[i] = u + to.at(i, 0) + input * to.of_row;
      transform<Transform>(in, out, 0, width);
    }
  }
}

// Rows [begin, end) of points, one an output, to dw [output, 3, 3, input].
template <typename Transform, typename T>
FASTUNLEARN_CLONES void points_to_weight(const T* du, Points from, T* dw, int64_t begin, int64_t end) {
  constexpr int taps = 9, n = Transform::from * Transform::from;
  for (int64_t output = begin; output < end; ++output) {
    const T* in[n];
    T* out[taps];
    for (int i = 0; i < n; ++i) in[i] = du + from.at(i, 0) + output * from.of_row;
    for (int tap = 0; tap < taps; ++tap) out[tap] = dw + (output * taps + tap) * from.columns;
    transform<Transform>(in, out, 0, from.columns);
  }
}

}  // namespace
}  // namespace fastunlearn::conv2d
