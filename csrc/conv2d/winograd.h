// Winograd's minimal algorithms for 3×3 convolutions: fewer products for a tile of outputs than outputs × weights.
//
//   y = Aᵀ (G w Gᵀ ⊙ Bᵀ x B) A
//
// x is the tile's inputs, y its outputs, and ⊙ multiplies point by point. With many channels each point is a matrix
// product over them. Here are the transforms along one axis; every one of numbers or of vectors.
#pragma once

#include <type_traits>

#include "common/vectors.h"

namespace fastunlearn::conv2d {

// What a vector consists of.
template <typename V>
using Number = std::decay_t<decltype(V{}[0])>;

// Two outputs from four inputs by 4 products for 6: F(2, 3).
//   y₀ = w₀x₀ + w₁x₁ + w₂x₂,  y₁ = w₀x₁ + w₁x₂ + w₂x₃
struct Unit {
  static constexpr bool transposed = false;
  static constexpr int products = 4, input_step = 2, output_step = 2, first_input = 0;
  static constexpr int input_point[] = {0, 1, 2, 3}, weight_point[] = {0, 1, 2, 3};

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
  struct ToOutputs {
    static constexpr int from = 4, to = 2;
    template <typename V>
    INLINE static void apply(const V* m, V* y) {
      y[0] = m[0] + m[1] + m[2];
      y[1] = m[1] - m[2] - m[3];
    }
  };
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
};

// Four outputs from six inputs by 6 products for 12: F(4, 3), of the polynomials' values at 0, ±a, ±b and ∞. With these
// points it rounds half as much as with ±1 and ±2.
struct LargeUnit {
  static constexpr bool transposed = false;
  static constexpr int products = 6, input_step = 4, output_step = 4, first_input = 0;
  static constexpr int input_point[] = {0, 1, 2, 3, 4, 5}, weight_point[] = {0, 1, 2, 3, 4, 5};
  static constexpr double a = 5. / 8, b = 3. / 2, aa = a * a, bb = b * b;

  struct OfInputs {
    static constexpr int from = 6, to = 6;
    template <typename V>
    INLINE static void apply(const V* x, V* v) {
      using T = Number<V>;
      const V even_a = x[4] - T(bb) * x[2], odd_a = T(a) * x[3] - T(a * bb) * x[1];
      const V even_b = x[4] - T(aa) * x[2], odd_b = T(b) * x[3] - T(b * aa) * x[1];
      v[0] = T(aa * bb) * x[0] - T(aa + bb) * x[2] + x[4];
      v[1] = even_a + odd_a;
      v[2] = even_a - odd_a;
      v[3] = even_b + odd_b;
      v[4] = even_b - odd_b;
      v[5] = T(aa * bb) * x[1] - T(aa + bb) * x[3] + x[5];
    }
  };
  struct OfWeights {
    static constexpr int from = 3, to = 6;
    // 1 / Π (p − other points), for p = ±a and ±b.
    static constexpr double of_a = 1 / (2 * aa * (aa - bb)), of_b = 1 / (2 * bb * (bb - aa));
    template <typename V>
    INLINE static void apply(const V* w, V* u) {
      using T = Number<V>;
      const V even_a = T(of_a) * w[0] + T(of_a * aa) * w[2], odd_a = T(of_a * a) * w[1];
      const V even_b = T(of_b) * w[0] + T(of_b * bb) * w[2], odd_b = T(of_b * b) * w[1];
      u[0] = T(1 / (aa * bb)) * w[0];
      u[1] = even_a + odd_a;
      u[2] = even_a - odd_a;
      u[3] = even_b + odd_b;
      u[4] = even_b - odd_b;
      u[5] = w[2];
    }
  };
  struct ToOutputs {
    static constexpr int from = 6, to = 4;
    template <typename V>
    INLINE static void apply(const V* m, V* y) {
      using T = Number<V>;
      const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
      y[0] = m[0] + even_a + even_b;
      y[1] = T(a) * odd_a + T(b) * odd_b;
      y[2] = T(aa) * even_a + T(bb) * even_b;
      y[3] = T(aa * a) * odd_a + T(bb * b) * odd_b + m[5];
    }
  };
};

// Stride 2: two outputs from five inputs by 5 products for 6. The even inputs see two weights, F(2, 2); the odd ones
// one.
//   y₀ = w₀x₀ + w₁x₁ + w₂x₂,  y₁ = w₀x₂ + w₁x₃ + w₂x₄
struct Down {
  static constexpr bool transposed = false;
  static constexpr int products = 5, input_step = 4, output_step = 2, first_input = 0;
  static constexpr int input_point[] = {0, 1, 2, 3, 4}, weight_point[] = {0, 1, 2, 3, 3};

  struct OfInputs {
    static constexpr int from = 5, to = 5;
    template <typename V>
    INLINE static void apply(const V* x, V* v) {
      v[0] = x[0] - x[2];
      v[1] = x[2];
      v[2] = x[2] - x[4];
      v[3] = x[1];
      v[4] = x[3];
    }
  };
  struct OfWeights {
    static constexpr int from = 3, to = 4;
    template <typename V>
    INLINE static void apply(const V* w, V* u) {
      u[0] = w[0];
      u[1] = w[0] + w[2];
      u[2] = w[2];
      u[3] = w[1];
    }
  };
  struct ToOutputs {
    static constexpr int from = 5, to = 2;
    template <typename V>
    INLINE static void apply(const V* m, V* y) {
      y[0] = m[0] + m[1] + m[3];
      y[1] = m[1] - m[2] + m[4];
    }
  };
  struct OfOutputGradients {
    static constexpr int from = 2, to = 5;
    template <typename V>
    INLINE static void apply(const V* y, V* m) {
      m[0] = y[0];
      m[1] = y[0] + y[1];
      m[2] = -y[1];
      m[3] = y[0];
      m[4] = y[1];
    }
  };
  struct ToWeightGradients {
    static constexpr int from = 4, to = 3;
    template <typename V>
    INLINE static void apply(const V* u, V* w) {
      w[0] = u[0] + u[1];
      w[1] = u[3];
      w[2] = u[1] + u[2];
    }
  };
};

// The adjoint of stride 2: four outputs from three inputs by 5 products for 6.
//   y₀ = w₂x₋₁ + w₀x₀,  y₁ = w₁x₀,  y₂ = w₂x₀ + w₀x₁,  y₃ = w₁x₁
struct Up {
  static constexpr bool transposed = true;
  static constexpr int products = 5, input_step = 2, output_step = 4, first_input = -1;
  static constexpr int input_point[] = {0, 1, 2, 1, 3}, weight_point[] = {2, 1, 0, 3, 3};

  struct OfInputs {
    static constexpr int from = 3, to = 4;
    template <typename V>
    INLINE static void apply(const V* x, V* v) {
      v[0] = x[0] - x[1];
      v[1] = x[1];
      v[2] = x[1] - x[2];
      v[3] = x[2];
    }
  };
  using OfWeights = Down::OfWeights;
  struct ToOutputs {
    static constexpr int from = 5, to = 4;
    template <typename V>
    INLINE static void apply(const V* m, V* y) {
      y[0] = m[0] + m[1];
      y[1] = m[3];
      y[2] = m[1] - m[2];
      y[3] = m[4];
    }
  };
};

// [from × from] to [to × to], row by row: along columns, then along rows.
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

}  // namespace fastunlearn::conv2d
