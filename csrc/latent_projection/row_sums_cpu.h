// The inner loops of latent_projection on the CPU, over some rows of at most a tile each, in the arithmetic type.
#pragma once

#include <cstdint>

#include "common/avx512.h"
#include "common/launch.h"
#include "common/vectors.h"
#include "latent_projection/latent_projection.h"

namespace fastunlearn::latent_projection {
namespace {

// The sum of a vector's elements, by halves.
template <typename T, int V>
INLINE T total(const Vector<T, V>& vector) {
  if constexpr (V == 1) {
    return vector[0];
  } else {
    return total<T, V / 2>(load<V / 2>(&vector[0]) + load<V / 2>(&vector[V / 2]));
  }
}

// products[row] = Σ z · target, summed in T.
template <int bytes, typename T>
INLINE void dot_rows(const T* z, const T* target, int64_t rows, int64_t columns, double* products) {
  constexpr int V = bytes / sizeof(T), vectors = 4;
  for (int64_t row = 0; row < rows; ++row, z += columns) {
    Vector<T, V> sums[vectors] = {};
    int64_t i = 0;
    for (; i + vectors * V <= columns; i += vectors * V) {
      for (int v = 0; v < vectors; ++v) sums[v] += load<V>(z + i + v * V) * load<V>(target + i + v * V);
    }
    for (; i + V <= columns; i += V) sums[0] += load<V>(z + i) * load<V>(target + i);
    T rest = 0;
    for (; i < columns; ++i) rest += z[i] * target[i];
    products[row] = total<T, V>((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
  }
}
#define DOTS(bytes, T)                                                                      \
  void dots(const T* z, const T* target, int64_t rows, int64_t columns, double* products) { \
    dot_rows<bytes>(z, target, rows, columns, products);                                    \
  }
#define DOTS_FLOAT(bytes) DOTS(bytes, float)
#define DOTS_DOUBLE(bytes) DOTS(bytes, double)
FOR_EACH_TARGET(DOTS_FLOAT)
FOR_EACH_TARGET(DOTS_DOUBLE)

// Projections and mask of n rows from their products with the target, which become the steps to take.
template <typename P>
FASTUNLEARN_CLONES void finish(Rule rule, double norm, double* __restrict products, P* __restrict projection,
                               bool* __restrict mask, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    projection[i] = static_cast<P>(products[i] / norm);
    products[i] = rule.step(projection[i], norm);
  }
  for (int64_t i = 0; i < n; ++i) mask[i] = projection[i] >= rule.threshold;
}

// Rows along the target; a step of 0 leaves a row as it is, to the bit.
template <typename T>
FASTUNLEARN_CLONES void shift(const T* __restrict z, const T* __restrict target, const double* __restrict steps,
                              T* __restrict out, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row, z += columns, out += columns) {
    const double step = steps[row];
    for (int64_t i = 0; i < columns; ++i) {
      const T moved = shifted(z[i], target[i], step);
      out[i] = step == 0 ? z[i] : moved;
    }
  }
}

#if defined(FASTUNLEARN_AVX512)
// One row, written past the caches as it is computed: a buffer between would delay the next reads.
FASTUNLEARN_AVX512_TARGET inline void shift_past_caches(const float* z, const float* target, double step, float* out,
                                                        int64_t columns) {
  constexpr int64_t line = 16;
  const auto by = static_cast<float>(step);
  const __m512 steps = _mm512_set1_ps(by);
  int64_t i = 0;
  for (; i < columns && reinterpret_cast<uintptr_t>(out + i) % 64 != 0; ++i) out[i] = z[i] - by * target[i];
  for (; i + line <= columns; i += line) {
    _mm512_stream_ps(out + i, _mm512_fnmadd_ps(steps, _mm512_loadu_ps(target + i), _mm512_loadu_ps(z + i)));
  }
  for (; i < columns; ++i) out[i] = z[i] - by * target[i];
}
#endif

}  // namespace
}  // namespace fastunlearn::latent_projection
