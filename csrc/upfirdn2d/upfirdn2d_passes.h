// The two passes of upfirdn2d on the CPU, and the loops they are made of.
//
// The outputs of an axis fall into phases: o = period·m + r meets the samples step·m + source_r, step·m + source_r + 1,
// …, with weights that depend on r alone. No zero is ever inserted, and none is multiplied.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/vectors.h"
#include "upfirdn2d/upfirdn2d.h"

namespace fastunlearn::upfirdn2d {
namespace {

template <typename T>
struct Phase {
  int64_t source;
  std::vector<T> weights;
};

template <typename T>
struct Polyphase {
  int64_t period, step;
  std::vector<Phase<T>> phases;
};

template <typename T>
Polyphase<T> polyphase(const Axis& axis, const double* taps) {
  const int64_t common = std::gcd(axis.up, axis.down);
  Polyphase<T> result{axis.up / common, axis.down / common, {}};
  for (int64_t r = 0; r < result.period; ++r) {
    const Reach at = reach(axis, r);
    Phase<T> phase{at.source, {}};
    for (int64_t k = 0; k < at.count; ++k) {
      phase.weights.push_back(static_cast<T>(taps[at.first_tap + k * axis.up]));
    }
    result.phases.push_back(std::move(phase));
  }
  return result;
}

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The samples that outputs [begin, end) meet, whether or not they exist.
Range reach_of(const Axis& axis, Range outputs) {
  Range samples{reach(axis, outputs.begin).source, reach(axis, outputs.begin).source + 1};
  for (int64_t o = std::max(outputs.begin, outputs.end - axis.up); o < outputs.end; ++o) {
    const Reach at = reach(axis, o);
    samples.end = std::max(samples.end, at.source + at.count);
  }
  return samples;
}

Range clip(Range samples, int64_t size) {
  const int64_t begin = std::clamp<int64_t>(samples.begin, 0, size);
  return {begin, std::clamp<int64_t>(samples.end, begin, size)};
}

// ---- inner loops ---------------------------------------------------------------------------------------------------

// Explicit vectors, because gcc guards the plain loops against aliasing at run time and leaves short ones scalar, and
// planes of 4² to 32² pixels have only short ones.

// The elements First, First + 2, … of a followed by b.
template <int First, int V, typename T, size_t... I>
INLINE void every_second(Vector<T, V>& out, const Vector<T, V>& a, const Vector<T, V>& b, std::index_sequence<I...>) {
  out = __builtin_shufflevector(a, b, (First + 2 * static_cast<int>(I))...);
}

// a[0], b[0], a[1], b[1], … from element First · V of that sequence on.
template <int First, int V, typename T, size_t... I>
INLINE void alternate(Vector<T, V>& out, const Vector<T, V>& a, const Vector<T, V>& b, std::index_sequence<I...>) {
  out = __builtin_shufflevector(a, b, static_cast<int>(I % 2 * V + First * V / 2 + I / 2)...);
}

// a[0], b[0], a[1], b[1], …
template <int V, bool Add, typename T>
INLINE void store_alternating(T* out, const Vector<T, V>& a, const Vector<T, V>& b) {
  Vector<T, V> low, high;
  alternate<0, V, T>(low, a, b, std::make_index_sequence<V>());
  alternate<1, V, T>(high, a, b, std::make_index_sequence<V>());
  store<V, Add>(out, low);
  store<V, Add>(out + V, high);
}

// Calls body(V, c) with blocks [c, c + V) that cover [0, n), V as large as n allows. With Overlap the last block
// reaches back over the one before it, so that a width of 17 costs two vectors and no scalar tail; a body that
// accumulates must not see an element twice.
template <int V, bool Overlap, typename Body>
INLINE void for_blocks(int64_t c, int64_t n, const Body& body) {
  const std::integral_constant<int, V> block;
  for (; c + V <= n; c += V) body(block, c);
  if (c == n) return;
  if (Overlap && n >= V) {
    body(block, n - V);
  } else if constexpr (V > 1) {
    for_blocks<(V > 4 ? V / 2 : 1), Overlap>(c, n, body);
  }
}

// out(i)[m] = Σ_k weights[k] · row(i, k)[m] for rows 0 ≤ i < rows of n values.
struct Sum {
  template <int Bytes, int Taps, bool Add, typename T, typename Row>
  static INLINE void run(int64_t first, T* out, int64_t out_stride, int64_t rows, const Row& row, const T* weights,
                         int64_t n) {
    T w[Taps];
    for (int k = 0; k < Taps; ++k) w[k] = weights[first + k];
    for (int64_t i = 0; i < rows; ++i, out += out_stride) {
      const T* from[Taps];
      for (int k = 0; k < Taps; ++k) from[k] = row(i, first + k);
      for_blocks<Bytes / sizeof(T), !Add>(0, n, [&](auto block, int64_t m) INLINE_LAMBDA {
        constexpr int V = block;
        Vector<T, V> sum = w[0] * load<V>(from[0] + m);
        for (int k = 1; k < Taps; ++k) sum += w[k] * load<V>(from[k] + m);
        store<V, Add>(out + m, sum);
      });
    }
  }
};

// Upsampling by Phases, two or four, along rows: out[Phases · m + r] = Σ_k weights_r[k] · row_r[m + k], 0 ≤ m < n.
template <int Phases>
struct Interleave {
  template <int Bytes, int Taps, bool Add, typename T>
  static INLINE void run(int64_t first, T* out, int64_t out_stride, int64_t rows, std::array<const T*, Phases> row,
                         int64_t row_stride, const std::array<const T*, Phases>& weights, int64_t n) {
    T w[Phases][Taps];
    for (int r = 0; r < Phases; ++r) {
      for (int k = 0; k < Taps; ++k) w[r][k] = weights[r][first + k];
      row[r] += first;
    }
    for (int64_t i = 0; i < rows; ++i, out += out_stride) {
      for_blocks<Bytes / sizeof(T), !Add>(0, n, [&](auto block, int64_t m) INLINE_LAMBDA {
        constexpr int V = block;
        Vector<T, V> sums[Phases];
        for (int r = 0; r < Phases; ++r) {
          sums[r] = w[r][0] * load<V>(row[r] + m);
          for (int k = 1; k < Taps; ++k) sums[r] += w[r][k] * load<V>(row[r] + m + k);
        }
        if constexpr (V == 1) {
          for (int r = 0; r < Phases; ++r) store<V, Add>(out + Phases * m + r, sums[r]);
        } else if constexpr (Phases == 2) {
          store_alternating<V, Add>(out + 2 * m, sums[0], sums[1]);
        } else {
          Vector<T, V> even[2], odd[2];  // of every four, the first and third, the second and fourth
          alternate<0, V, T>(even[0], sums[0], sums[2], std::make_index_sequence<V>());
          alternate<1, V, T>(even[1], sums[0], sums[2], std::make_index_sequence<V>());
          alternate<0, V, T>(odd[0], sums[1], sums[3], std::make_index_sequence<V>());
          alternate<1, V, T>(odd[1], sums[1], sums[3], std::make_index_sequence<V>());
          store_alternating<V, Add>(out + 4 * m, even[0], odd[0]);
          store_alternating<V, Add>(out + 4 * m + 2 * V, even[1], odd[1]);
        }
      });
      for (const T*& from : row) from += row_stride;
    }
  }
};

// Downsampling by two along rows: out[m] = Σ_k weights[k] · row[2m + k], 0 ≤ m < n. An odd number of taps reads, and
// ignores, the value after the last one.
struct Decimate {
  template <int Bytes, int Taps, bool Add, typename T>
  static INLINE void run(int64_t first, T* out, int64_t out_stride, int64_t rows, const T* row, int64_t row_stride,
                         const T* weights, int64_t n) {
    T w[Taps];
    for (int k = 0; k < Taps; ++k) w[k] = weights[first + k];
    row += first;
    for (int64_t i = 0; i < rows; ++i, out += out_stride, row += row_stride) {
      for_blocks<Bytes / sizeof(T), !Add>(0, n, [&](auto block, int64_t m) INLINE_LAMBDA {
        constexpr int V = block;
        Vector<T, V> sum{}, value;
        for (int k = 0; k < Taps; ++k) {
          const T* const from = row + 2 * m + k / 2 * 2;
          if constexpr (V == 1) {
            value = load<1>(from + k % 2);
          } else if (k % 2 == 0) {
            every_second<0, V, T>(value, load<V>(from), load<V>(from + V), std::make_index_sequence<V>());
          } else {
            every_second<1, V, T>(value, load<V>(from), load<V>(from + V), std::make_index_sequence<V>());
          }
          sum = k == 0 ? w[k] * value : sum + w[k] * value;
        }
        store<V, Add>(out + m, sum);
      });
    }
  }
};

// Runs a filter in passes of at most four taps, so that their number is known at compile time. Every pass but the
// first adds to what is there, as does the first if `add` says so.
template <int Bytes, typename Pass, typename... Args>
INLINE void in_passes(int64_t taps, bool add, const Args&... args) {
  for (int64_t first = 0; first < taps; first += 4, add = true) {
    const int64_t left = taps - first;
    if (left >= 4) {
      add ? Pass::template run<Bytes, 4, true>(first, args...) : Pass::template run<Bytes, 4, false>(first, args...);
    } else if (left == 3) {
      add ? Pass::template run<Bytes, 3, true>(first, args...) : Pass::template run<Bytes, 3, false>(first, args...);
    } else if (left == 2) {
      add ? Pass::template run<Bytes, 2, true>(first, args...) : Pass::template run<Bytes, 2, false>(first, args...);
    } else {
      add ? Pass::template run<Bytes, 1, true>(first, args...) : Pass::template run<Bytes, 1, false>(first, args...);
    }
  }
}

// ---- the two passes ------------------------------------------------------------------------------------------------

// Rows [range.begin, range.end) of a plane; every other row is zero.
template <typename T>
struct Rows {
  const T* data;
  Range range;
  int64_t stride;
  const T* zero;
  const T* operator()(int64_t row) const {
    return range.begin <= row && row < range.end ? data + (row - range.begin) * stride : zero;
  }
};

// The m with outputs.begin ≤ period·m + r < outputs.end.
inline Range of_phase(Range outputs, int64_t period, int64_t r) {
  const int64_t begin = std::max<int64_t>(0, ceil_div(outputs.begin - r, period));
  return {begin, std::max(begin, ceil_div(outputs.end - r, period))};
}

// Output rows `outputs` of the vertical pass, n values each.
template <int Bytes, typename T>
INLINE void vertical_pass(T* out, int64_t out_stride, const Rows<T>& rows, const Polyphase<T>& filter, Range outputs,
                          int64_t n) {
  for (int64_t r = 0; r < filter.period; ++r) {
    const Phase<T>& phase = filter.phases[r];
    const Range m = of_phase(outputs, filter.period, r);
    const int64_t source = m.begin * filter.step + phase.source, step = filter.step;
    T* const to = out + (m.begin * filter.period + r - outputs.begin) * out_stride;
    const int64_t to_stride = filter.period * out_stride;
    if (phase.weights.empty()) {
      for (int64_t i = 0; i < m.size(); ++i) std::fill_n(to + i * to_stride, n, T(0));
    }
    in_passes<Bytes, Sum>(
        phase.weights.size(), false, to, to_stride, m.size(),
        [&](int64_t i, int64_t k) INLINE_LAMBDA { return rows(source + i * step + k); }, phase.weights.data(), n);
  }
}

// `rows` rows of the horizontal pass: out_w pixels of `channels` values, from rows whose first pixel is sample `begin`.
template <int Bytes, typename T>
INLINE void horizontal_pass(T* out, int64_t out_stride, const T* buffer, int64_t stride, int64_t rows, int64_t begin,
                            const Polyphase<T>& filter, int64_t out_w, int64_t channels, bool add) {
  const int64_t period = filter.period, step = filter.step;
  const Phase<T>& phase0 = filter.phases[0];
  const int64_t taps = phase0.weights.size();
  const T* const first = buffer + (phase0.source - begin) * channels;
  int64_t done = 0;
  if (taps > 0 && period == 1 && step == 1) {
    in_passes<Bytes, Sum>(
        taps, add, out, out_stride, rows,
        [=](int64_t i, int64_t k) INLINE_LAMBDA { return first + i * stride + k * channels; }, phase0.weights.data(),
        out_w * channels);
    return;
  }
  if (taps > 0 && channels == 1 && period == 1 && step == 2) {
    in_passes<Bytes, Decimate>(taps, add, out, out_stride, rows, first, stride, phase0.weights.data(), out_w);
    return;
  }
  const bool equally_many = std::all_of(filter.phases.begin(), filter.phases.end(), [&](const Phase<T>& phase) {
    return static_cast<int64_t>(phase.weights.size()) == taps;
  });
  const auto interleave = [&](auto phases) INLINE_LAMBDA {
    constexpr int Phases = phases;
    std::array<const T*, Phases> row, weights;
    for (int r = 0; r < Phases; ++r) {
      row[r] = buffer + (filter.phases[r].source - begin);
      weights[r] = filter.phases[r].weights.data();
    }
    in_passes<Bytes, Interleave<Phases>>(taps, add, out, out_stride, rows, row, stride, weights, out_w / Phases);
    done = out_w / Phases * Phases;
  };
  if (taps > 0 && channels == 1 && step == 1 && equally_many) {
    if (period == 2) interleave(std::integral_constant<int, 2>());
    if (period == 4) interleave(std::integral_constant<int, 4>());
  }
  for (int64_t i = 0; i < rows && done < out_w; ++i, out += out_stride, buffer += stride) {
    for (int64_t r = 0; r < period; ++r) {
      const Phase<T>& phase = filter.phases[r];
      const T* const from = buffer + (phase.source - begin) * channels;
      const int64_t m = ceil_div(done - r, period), count = ceil_div(out_w - r, period);
      T* const to = out + (m * period + r) * channels;
      if (channels == 1) {
        for (int64_t j = m; j < count; ++j) {
          T sum = add ? out[j * period + r] : T(0);
          for (size_t k = 0; k < phase.weights.size(); ++k) sum += phase.weights[k] * from[j * step + k];
          out[j * period + r] = sum;
        }
        continue;
      }
      if (phase.weights.empty() && !add) {
        for (int64_t j = m; j < count; ++j) std::fill_n(out + (j * period + r) * channels, channels, T(0));
      }
      in_passes<Bytes, Sum>(
          phase.weights.size(), add, to, period * channels, count - m,
          [=](int64_t j, int64_t k) INLINE_LAMBDA { return from + ((m + j) * step + k) * channels; },
          phase.weights.data(), channels);
    }
  }
}

#define VERTICAL(bytes, T)                                                                                  \
  void vertical(T* out, int64_t out_stride, const Rows<T>& rows, const Polyphase<T>& filter, Range outputs, \
                int64_t n) {                                                                                \
    vertical_pass<bytes>(out, out_stride, rows, filter, outputs, n);                                        \
  }
#define HORIZONTAL(bytes, T)                                                                                \
  void horizontal(T* out, int64_t out_stride, const T* buffer, int64_t stride, int64_t rows, int64_t begin, \
                  const Polyphase<T>& filter, int64_t out_w, int64_t channels, bool add) {                  \
    horizontal_pass<bytes>(out, out_stride, buffer, stride, rows, begin, filter, out_w, channels, add);     \
  }
#define VERTICAL_FLOAT(bytes) VERTICAL(bytes, float)
#define VERTICAL_DOUBLE(bytes) VERTICAL(bytes, double)
#define HORIZONTAL_FLOAT(bytes) HORIZONTAL(bytes, float)
#define HORIZONTAL_DOUBLE(bytes) HORIZONTAL(bytes, double)
FOR_EACH_TARGET(VERTICAL_FLOAT)
FOR_EACH_TARGET(VERTICAL_DOUBLE)
FOR_EACH_TARGET(HORIZONTAL_FLOAT)
FOR_EACH_TARGET(HORIZONTAL_DOUBLE)

}  // namespace
}  // namespace fastunlearn::upfirdn2d
