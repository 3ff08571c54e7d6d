// Winograd's F(2×2, 3×3): a tile of 2×2 outputs of a 3×3 convolution by 16 products in place of 36.
//
//   y = Aᵀ (G w Gᵀ ⊙ Bᵀ x B) A      x [4×4] the tile's inputs, w [3×3], y [2×2]; ⊙ multiplies element by element
//
// With many channels ⊙ becomes 16 matrix products over them. The functions here are the transforms along one axis, of
// numbers or vectors; `both_axes` applies one along columns, then along rows.
#pragma once

#include "common/vectors.h"

namespace fastunlearn::winograd_conv2d {

constexpr int points = 16;  // of a transformed tile

// Bᵀ: four inputs to four points.
struct OfInputs {
  static constexpr int from = 4, to = 4;
  template <typename V>
  INLINE static void apply(const V* x, V* v) {
    v[0] = x[0] - x[2];
    v[1] = x[1] + x[2];
    v[2] = x[2] - x[1];
    v[3] = x[1] - x[3];
  }
};

// G: three weights to four points.
struct OfWeights {
  static constexpr int from = 3, to = 4;
  template <typename V>
  INLINE static void apply(const V* w, V* u) {
    const V even = (w[0] + w[2]) * 0.5f, odd = w[1] * 0.5f;
    u[0] = w[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = w[2];
  }
};

// Aᵀ: four points to two outputs.
struct ToOutputs {
  static constexpr int from = 4, to = 2;
  template <typename V>
  INLINE static void apply(const V* m, V* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
};

// A: the gradients of two outputs to those of four points.
struct OfOutputGradients {
  static constexpr int from = 2, to = 4;
  template <typename V>
  INLINE static void apply(const V* y, V* m) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[0] - y[1];
    m[3] = -y[1];
  }
};

// Gᵀ: the gradients of four points to those of three weights.
struct ToWeightGradients {
  static constexpr int from = 4, to = 3;
  template <typename V>
  INLINE static void apply(const V* u, V* w) {
    const V even = (u[1] + u[2]) * 0.5f;
    w[0] = u[0] + even;
    w[1] = (u[1] - u[2]) * 0.5f;
    w[2] = even + u[3];
  }
};

// [from × from] to [to × to], row by row.
template <typename Transform, typename V>
INLINE void both_axes(const V* in, V* out) {
  constexpr int from = Transform::from, to = Transform::to;
  V columns[to * from];
  for (int j = 0; j < from; ++j) {
    V column[from], transformed[to];
    for (int i = 0; i < from; ++i) column[i] = in[i * from + j];
    Transform::apply(column, transformed);
    for (int i = 0; i < to; ++i) columns[i * from + j] = transformed[i];
  }
  for (int i = 0; i < to; ++i) Transform::apply(columns + i * from, out + i * to);
}

}  // namespace fastunlearn::winograd_conv2d
