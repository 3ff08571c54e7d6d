// Winograd's transforms over many channels: tiles of an image, or a weight, to points for the products, and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "winograd_conv2d/products_cpu.h"
#include "winograd_conv2d/winograd.h"

namespace fastunlearn::winograd_conv2d {

// An image in channels_last: its pixels' channels lie together.
struct Image {
  int64_t n, h, w, channels;
  int64_t of_image, of_row, of_pixel;  // elements from one to the next
};

// The side × side pixels of each tile; tiles are two pixels apart.
struct Tiles {
  int64_t rows, columns;  // of an image
  int64_t padding;        // pixels before the image's first that the first tile begins

  int64_t of_image() const { return rows * columns; }
};

// Where points lie: [point, panel, tile, column of the panel]; one panel may hold all the channels.
struct Points {
  int64_t channels, width, of_tile, of_panel, of_point;

  // Rows of all channels. The strides keep points and tiles from falling on the same lines of the cache.
  static Points rows(int64_t channels, int64_t tiles, int64_t element) {
    const int64_t line = 64 / element, width = (channels + line - 1) / line * line;
    const int64_t of_tile = width + line;
    return {channels, width, of_tile, 0, of_tile * tiles + 4 * line};
  }
  template <typename T>
  static Points panels(int64_t channels, int64_t tiles) {
    const int64_t width = panel_width<T>, of_panel = tiles * width;
    return {channels, width, width, of_panel, (channels + width - 1) / width * of_panel + 256 / int64_t{sizeof(T)}};
  }
  int64_t numel() const { return points * of_point; }
};

namespace {

// Transforms the pixels at `in` and writes them to `out`, for channels [c, end) in vectors of V.
template <int V, typename Transform, typename T>
INLINE int64_t transform_channels(const T* const* in, T* const* out, int64_t c, int64_t end) {
  constexpr int from = Transform::from * Transform::from, to = Transform::to * Transform::to;
  for (; c + V <= end; c += V) {
    Vector<T, V> values[from], results[to];
    for (int i = 0; i < from; ++i) values[i] = load<V>(in[i] + c);
    both_axes<Transform>(values, results);
    for (int i = 0; i < to; ++i) store<V, false>(out[i] + c, results[i]);
  }
  return c;
}

// Tiles [begin, end) of the image to points.
template <int bytes, typename Transform, typename T>
INLINE void tiles_to_points(const T* x, Image image, Tiles tiles, int64_t begin, int64_t end, T* v, Points to,
                            const T* zeros) {
  constexpr int side = Transform::from, V = bytes / sizeof(T);
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t n = tile / tiles.of_image(), place = tile % tiles.of_image();
    const int64_t top = 2 * (place / tiles.columns) - tiles.padding, left = 2 * (place % tiles.columns) - tiles.padding;
    const T* in[side * side];
    for (int i = 0; i < side * side; ++i) {
      const int64_t row = top + i / side, column = left + i % side;
      const bool inside = row >= 0 && row < image.h && column >= 0 && column < image.w;
      in[i] = inside ? x + n * image.of_image + row * image.of_row + column * image.of_pixel : zeros;
    }
    T* start = v + (tile - begin) * to.of_tile;
    for (int64_t c = 0; c < to.channels; c += to.width, start += to.of_panel) {
      T* out[points];
      for (int i = 0; i < points; ++i) out[i] = start + i * to.of_point - c;
      const int64_t stop = std::min(to.channels, c + to.width);
      const int64_t rest = transform_channels<V, Transform>(in, out, c, stop);
      transform_channels<1, Transform>(in, out, rest, stop);
    }
  }
}

// Points to the 2 × 2 outputs of tiles [begin, end); those outside the image go to `waste`.
template <int bytes, typename T>
INLINE void points_to_tiles(const T* m, Points from, T* y, Image image, Tiles tiles, int64_t begin, int64_t end,
                            T* waste) {
  constexpr int side = ToOutputs::to, V = bytes / sizeof(T);
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t n = tile / tiles.of_image(), place = tile % tiles.of_image();
    const int64_t top = 2 * (place / tiles.columns), left = 2 * (place % tiles.columns);
    T* out[side * side];
    for (int i = 0; i < side * side; ++i) {
      const int64_t row = top + i / side, column = left + i % side;
      const bool inside = row < image.h && column < image.w;
      out[i] = inside ? y + n * image.of_image + row * image.of_row + column * image.of_pixel : waste;
    }
    const T* in[points];
    for (int i = 0; i < points; ++i) in[i] = m + i * from.of_point + (tile - begin) * from.of_tile;
    const int64_t rest = transform_channels<V, ToOutputs>(in, out, 0, image.channels);
    transform_channels<1, ToOutputs>(in, out, rest, image.channels);
  }
}

// Elements from one number of a weight to the next, and before its first.
struct Weight {
  int64_t of_output, of_input, of_row, of_column, start;
};

// u[point, panel, input, output of the panel] of `panel`; its columns behind the last output are zeros. Where outputs
// lie apart in memory, the weights of some inputs are first put in order.
template <int bytes, typename T>
INLINE void weight_to_points(const T* w, Weight weight, int64_t inputs, int64_t outputs, int64_t panel, T* u,
                             int64_t of_point) {
  constexpr int64_t V = bytes / sizeof(T), width = panel_width<T>, block = 16, taps = 9;
  const int64_t first = panel * width, lanes = std::min(width, outputs - first);
  const bool in_place = weight.of_output == 1 && lanes == width;
  alignas(64) T ordered[taps][block][width];
  if (lanes < width) std::fill_n(&ordered[0][0][0], taps * block * width, T(0));
  const T* taps_of_first[taps];
  for (int64_t tap = 0; tap < taps; ++tap) {
    taps_of_first[tap] =
        w + weight.start + first * weight.of_output + tap / 3 * weight.of_row + tap % 3 * weight.of_column;
  }
  for (int64_t c = 0; c < inputs; c += block) {
    const int64_t n = std::min(block, inputs - c);
    for (int64_t tap = 0; tap < taps && !in_place; ++tap) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const T* from = taps_of_first[tap] + lane * weight.of_output + c * weight.of_input;
        __builtin_prefetch(from + block * weight.of_input);
        for (int64_t i = 0; i < n; ++i) ordered[tap][i][lane] = from[i * weight.of_input];
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      const T* in[taps];
      T* out[points];
      for (int64_t tap = 0; tap < taps; ++tap) {
        in[tap] = in_place ? taps_of_first[tap] + (c + i) * weight.of_input : ordered[tap][i];
      }
      for (int64_t point = 0; point < points; ++point) out[point] = u + point * of_point + (c + i) * width;
      transform_channels<V, OfWeights>(in, out, 0, width);
    }
  }
}

// dw[output, 3, 3, input] of outputs [begin, end) from du[point, output, input].
template <int bytes, typename T>
INLINE void points_to_weight(const T* du, Points from, T* dw, int64_t inputs, int64_t begin, int64_t end) {
  constexpr int64_t V = bytes / sizeof(T), taps = 9;
  for (int64_t output = begin; output < end; ++output) {
    const T* in[points];
    T* out[taps];
    for (int64_t i = 0; i < points; ++i) in[i] = du + i * from.of_point + output * from.of_tile;
    for (int64_t tap = 0; tap < taps; ++tap) out[tap] = dw + (output * taps + tap) * inputs;
    const int64_t rest = transform_channels<V, ToWeightGradients>(in, out, 0, inputs);
    transform_channels<1, ToWeightGradients>(in, out, rest, inputs);
  }
}

#define TRANSFORMS(bytes, T)                                                                                       \
  void inputs_to_points(const T* x, Image image, Tiles tiles, int64_t begin, int64_t end, T* v, Points to,         \
                        const T* zeros) {                                                                          \
    tiles_to_points<bytes, OfInputs>(x, image, tiles, begin, end, v, to, zeros);                                   \
  }
#define GRADIENTS(bytes, T)                                                                                        \
  void gradients_to_points(const T* x, Image image, Tiles tiles, int64_t begin, int64_t end, T* v, Points to,      \
                           const T* zeros) {                                                                       \
    tiles_to_points<bytes, OfOutputGradients>(x, image, tiles, begin, end, v, to, zeros);                          \
  }
#define OUTPUTS(bytes, T)                                                                                          \
  void points_to_outputs(const T* m, Points from, T* y, Image image, Tiles tiles, int64_t begin, int64_t end,      \
                         T* waste) {                                                                               \
    points_to_tiles<bytes>(m, from, y, image, tiles, begin, end, waste);                                           \
  }
#define WEIGHTS(bytes, T)                                                                                          \
  void weights_to_points(const T* w, Weight weight, int64_t inputs, int64_t outputs, int64_t panel, T* u,          \
                         int64_t of_point) {                                                                       \
    weight_to_points<bytes>(w, weight, inputs, outputs, panel, u, of_point);                                       \
  }
#define WEIGHT_GRADIENTS(bytes, T)                                                                                 \
  void points_to_weights(const T* du, Points from, T* dw, int64_t inputs, int64_t begin, int64_t end) {            \
    points_to_weight<bytes>(du, from, dw, inputs, begin, end);                                                     \
  }
// FOR_EACH takes a macro of one argument.
#define INPUTS_FLOAT(bytes) TRANSFORMS(bytes, float)
#define INPUTS_DOUBLE(bytes) TRANSFORMS(bytes, double)
#define GRADIENTS_FLOAT(bytes) GRADIENTS(bytes, float)
#define GRADIENTS_DOUBLE(bytes) GRADIENTS(bytes, double)
#define OUTPUTS_FLOAT(bytes) OUTPUTS(bytes, float)
#define OUTPUTS_DOUBLE(bytes) OUTPUTS(bytes, double)
#define WEIGHTS_FLOAT(bytes) WEIGHTS(bytes, float)
#define WEIGHTS_DOUBLE(bytes) WEIGHTS(bytes, double)
#define WEIGHT_GRADIENTS_FLOAT(bytes) WEIGHT_GRADIENTS(bytes, float)
#define WEIGHT_GRADIENTS_DOUBLE(bytes) WEIGHT_GRADIENTS(bytes, double)
FOR_EACH_TARGET(INPUTS_FLOAT)
FOR_EACH_TARGET(INPUTS_DOUBLE)
FOR_EACH_TARGET(GRADIENTS_FLOAT)
FOR_EACH_TARGET(GRADIENTS_DOUBLE)
FOR_EACH_TARGET(OUTPUTS_FLOAT)
FOR_EACH_TARGET(OUTPUTS_DOUBLE)
FOR_EACH_TARGET(WEIGHTS_FLOAT)
FOR_EACH_TARGET(WEIGHTS_DOUBLE)
FOR_EACH_TARGET(WEIGHT_GRADIENTS_FLOAT)
FOR_EACH_TARGET(WEIGHT_GRADIENTS_DOUBLE)

}  // namespace
}  // namespace fastunlearn::winograd_conv2d
