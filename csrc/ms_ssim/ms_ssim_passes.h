// The separable window on the CPU: loops over rows of values, 11 taps or any number.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "common/vectors.h"

namespace fastunlearn::ms_ssim {
namespace {

// Rows that one vertical pass makes at once: each value it loads meets this many sums in registers.
constexpr int step_rows = 8;

template <int Count, typename Body, int... K>
INLINE void for_each_tap(const Body& body, std::integer_sequence<int, K...>) {
  (body(std::integral_constant<int, K>()), ...);
}

// Calls body(k) for 0 ≤ k < count; where Count is known, with constants.
template <int Count, typename Body>
INLINE void for_taps(int64_t count, const Body& body) {
  if constexpr (Count > 0) {
    for_each_tap<Count>(body, std::make_integer_sequence<int, Count>());
  } else {
    for (int64_t k = 0; k < count; ++k) body(k);
  }
}

template <int Shift, int V, typename T, int... I>
INLINE void join(Vector<T, V>& out, const Vector<T, V>& a, const Vector<T, V>& b, std::integer_sequence<int, I...>) {
  out = __builtin_shufflevector(a, b, (Shift + I)...);
}

// The vector at in + k, for aligned `in`. Every load of 64 bytes but one in 16 would touch two cache lines; so those
// are put together from aligned ones.
template <int V, typename T, int K>
INLINE void load_behind(Vector<T, V>& out, const T* in, std::integral_constant<int, K>) {
  constexpr int first = K / V * V;
  if constexpr (V * sizeof(T) == 64 && first != K) {
    join<K - first, V, T>(out, load<V>(in + first), load<V>(in + first + V), std::make_integer_sequence<int, V>());
  } else {
    out = load<V>(in + K);
  }
}
template <int V, typename T>
INLINE void load_behind(Vector<T, V>& out, const T* in, int64_t k) {
  out = load<V>(in + k);
}

// The passes work on whole vectors: rows begin at multiples of 64 bytes and have room for two vectors more than they
// hold.

// out[r][m] = Σ_k taps[k] · rows[r + k][m] for r < step_rows.
struct Vertical {
  template <int Bytes, int Taps, typename T>
  static INLINE void run(T* out, int64_t out_stride, const T* const* rows, const T* taps, int64_t count, int64_t n) {
    constexpr int V = Bytes / sizeof(T);
    for (int64_t m = 0; m < n; m += V) {
      Vector<T, V> sums[step_rows] = {};
      for_taps<Taps ? Taps + step_rows - 1 : 0>(count + step_rows - 1, [&](auto t) INLINE_LAMBDA {
        const Vector<T, V> value = load<V>(rows[t] + m);
        for (int r = 0; r < step_rows; ++r) {
          if (0 <= t - r && t - r < (Taps ? Taps : count)) sums[r] += taps[t - r] * value;
        }
      });
      for (int r = 0; r < step_rows; ++r) store<V, false>(out + r * out_stride + m, sums[r]);
    }
  }
};

// out[m] = Σ_k taps[k] · in[m + k].
struct Horizontal {
  template <int Bytes, int Taps, typename T>
  static INLINE void run(T* out, const T* in, const T* taps, int64_t count, int64_t n) {
    constexpr int V = Bytes / sizeof(T);
    for (int64_t m = 0; m < n; m += V) {
      Vector<T, V> sum{};
      for_taps<Taps>(count, [&](auto k) INLINE_LAMBDA {
        Vector<T, V> value;
        load_behind<V>(value, in + m, k);
        sum += taps[k] * value;
      });
      store<V, false>(out + m, sum);
    }
  }
};

// The same of a, a², b and b², which go to out, out + stride, … .
struct HorizontalMeans {
  template <int Bytes, int Taps, typename T>
  static INLINE void run(T* out, int64_t stride, const T* a, const T* b, const T* taps, int64_t count, int64_t n) {
    constexpr int V = Bytes / sizeof(T);
    for (int64_t m = 0; m < n; m += V) {
      Vector<T, V> sum_a{}, sum_aa{}, sum_b{}, sum_bb{};
      for_taps<Taps>(count, [&](auto k) INLINE_LAMBDA {
        Vector<T, V> value_a, value_b;
        load_behind<V>(value_a, a + m, k);
        load_behind<V>(value_b, b + m, k);
        const Vector<T, V> part_a = taps[k] * value_a, part_b = taps[k] * value_b;
        sum_a += part_a;
        sum_aa += part_a * value_a;
        sum_b += part_b;
        sum_bb += part_b * value_b;
      });
      store<V, false>(out + m, sum_a);
      store<V, false>(out + stride + m, sum_aa);
      store<V, false>(out + 2 * stride + m, sum_b);
      store<V, false>(out + 3 * stride + m, sum_bb);
    }
  }
};

template <int Bytes, typename Pass, typename T, typename... Arguments>
INLINE void with_taps(const T* taps, int64_t count, int64_t n, const Arguments&... arguments) {
  count == 11 ? Pass::template run<Bytes, 11>(arguments..., taps, count, n)
              : Pass::template run<Bytes, 0>(arguments..., taps, count, n);
}

#define VERTICAL(bytes, T)                                                                                   \
  void vertical(T* out, int64_t out_stride, const T* const* rows, const T* taps, int64_t count, int64_t n) { \
    with_taps<bytes, Vertical>(taps, count, n, out, out_stride, rows);                                       \
  }
#define HORIZONTAL(bytes, T)                                                      \
  void horizontal(T* out, const T* in, const T* taps, int64_t count, int64_t n) { \
    with_taps<bytes, Horizontal>(taps, count, n, out, in);                        \
  }
#define MEANS(bytes, T)                                                                                            \
  void horizontal_means(T* out, int64_t stride, const T* a, const T* b, const T* taps, int64_t count, int64_t n) { \
    with_taps<bytes, HorizontalMeans>(taps, count, n, out, stride, a, b);                                          \
  }
#define VERTICAL_FLOAT(bytes) VERTICAL(bytes, float)
#define VERTICAL_DOUBLE(bytes) VERTICAL(bytes, double)
#define HORIZONTAL_FLOAT(bytes) HORIZONTAL(bytes, float)
#define HORIZONTAL_DOUBLE(bytes) HORIZONTAL(bytes, double)
#define MEANS_FLOAT(bytes) MEANS(bytes, float)
#define MEANS_DOUBLE(bytes) MEANS(bytes, double)
FOR_EACH_TARGET(VERTICAL_FLOAT)
FOR_EACH_TARGET(VERTICAL_DOUBLE)
FOR_EACH_TARGET(HORIZONTAL_FLOAT)
FOR_EACH_TARGET(HORIZONTAL_DOUBLE)
FOR_EACH_TARGET(MEANS_FLOAT)
FOR_EACH_TARGET(MEANS_DOUBLE)

}  // namespace
}  // namespace fastunlearn::ms_ssim
