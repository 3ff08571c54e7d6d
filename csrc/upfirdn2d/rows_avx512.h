// A separable filter of up to four taps a phase on planes of float32, both passes in registers: each vector of the
// vertical pass is computed once, and the horizontal pass takes its taps from that vector and the next one, shifted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "common/avx512.h"
#include "upfirdn2d/upfirdn2d_passes.h"

namespace fastunlearn::upfirdn2d {
namespace {

constexpr int64_t most_taps = 4;

#if defined(FASTUNLEARN_AVX512)

constexpr int64_t lanes = 16;
constexpr int64_t ahead = 1024;  // elements from what is read to what is asked for

FASTUNLEARN_AVX512_TARGET inline __mmask16 first_lanes(int64_t n) {
  return n >= lanes ? 0xFFFF : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
}

// One output row of the vertical pass: the weighted sum of Taps input rows, `size` samples long and zero outside.
template <int Taps>
struct Column {
  const float* rows[Taps];
  __m512 weights[Taps];
  int64_t size;

  // Samples [begin, begin + lanes).
  FASTUNLEARN_AVX512_TARGET INLINE __m512 at(int64_t begin) const {
    if (begin < 0 || begin >= size) return _mm512_setzero_ps();
    __m512 sum;
    if (begin + lanes <= size) {
      // The last rows are new; the others were read for the output row before.
      _mm_prefetch(reinterpret_cast<const char*>(rows[Taps - 2] + begin + ahead), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(rows[Taps - 1] + begin + ahead), _MM_HINT_T0);
      sum = _mm512_mul_ps(weights[0], _mm512_loadu_ps(rows[0] + begin));
      for (int k = 1; k < Taps; ++k) sum = _mm512_fmadd_ps(weights[k], _mm512_loadu_ps(rows[k] + begin), sum);
    } else {
      const __mmask16 exists = first_lanes(size - begin);
      sum = _mm512_mul_ps(weights[0], _mm512_maskz_loadu_ps(exists, rows[0] + begin));
      for (int k = 1; k < Taps; ++k) {
        sum = _mm512_fmadd_ps(weights[k], _mm512_maskz_loadu_ps(exists, rows[k] + begin), sum);
      }
    }
    return sum;
  }
};

// A column from some sample on, vector by vector. The rows are read at multiples of a vector only, as they lie in
// memory, and what begins between two of those is shifted together.
template <int Taps>
class Samples {
 public:
  FASTUNLEARN_AVX512_TARGET Samples(const Column<Taps>& column, int64_t begin)
      : column_(column), at_(begin & -lanes), last_(column.at(at_)) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    from_ = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(begin - at_)));
  }

  FASTUNLEARN_AVX512_TARGET INLINE __m512 next() {
    at_ += lanes;
    const __m512 here = last_;
    last_ = column_.at(at_);
    return _mm512_permutex2var_ps(here, from_, last_);
  }

 private:
  const Column<Taps>& column_;
  int64_t at_;
  __m512 last_;
  __m512i from_;
};

FASTUNLEARN_AVX512_TARGET inline void store_row(float* out, int64_t n, const __m512& value) {
  if (n >= lanes) {
    _mm512_storeu_ps(out, value);
  } else {
    _mm512_mask_storeu_ps(out, first_lanes(n), value);
  }
}

// The lanes from First on of a vector followed by the next. (All lanes by mask: gcc warns of the plain intrinsic.)
template <int First>
FASTUNLEARN_AVX512_TARGET inline __m512 shifted(const __m512& here, const __m512& next) {
  return _mm512_castsi512_ps(
      _mm512_maskz_alignr_epi32(0xFFFF, _mm512_castps_si512(next), _mm512_castps_si512(here), First));
}

// Σ_k weights[k] · the lanes k, k + 1, … of a vector followed by the next.
template <int Taps>
struct Sliding {
  __m512 weights[Taps > 0 ? Taps : 1];

  FASTUNLEARN_AVX512_TARGET explicit Sliding(const std::vector<float>& taps) {
    for (int k = 0; k < Taps; ++k) weights[k] = _mm512_set1_ps(taps[k]);
  }

  FASTUNLEARN_AVX512_TARGET INLINE __m512 sum(const __m512& here, const __m512& next) const {
    if constexpr (Taps == 0) return _mm512_setzero_ps();
    __m512 sum = _mm512_mul_ps(weights[0], here);
    if constexpr (Taps > 1) sum = _mm512_fmadd_ps(weights[1], shifted<1>(here, next), sum);
    if constexpr (Taps > 2) sum = _mm512_fmadd_ps(weights[2], shifted<2>(here, next), sum);
    if constexpr (Taps > 3) sum = _mm512_fmadd_ps(weights[3], shifted<3>(here, next), sum);
    return sum;
  }
};

// out[m] = Σ_k weights[k] · column[source + m + k]
template <int Taps>
struct FilterRow {
  Sliding<Taps> taps;
  int64_t source;

  FASTUNLEARN_AVX512_TARGET explicit FilterRow(const Polyphase<float>& filter)
      : taps(filter.phases[0].weights), source(filter.phases[0].source) {}

  template <typename Column>
  FASTUNLEARN_AVX512_TARGET INLINE void run(const Column& column, float* out, int64_t n) const {
    Samples samples(column, source);
    __m512 here, next = samples.next();
    for (int64_t m = 0; m < n; m += lanes) {
      here = next;
      next = samples.next();
      store_row(out + m, n - m, taps.sum(here, next));
    }
  }
};

// out[m] = Σ_k weights[k] · column[source + 2m + k]: the even taps on even samples, the odd taps on odd samples.
template <int Taps>
struct DecimateRow {
  Sliding<(Taps + 1) / 2> even_taps;
  Sliding<Taps / 2> odd_taps;
  int64_t source;
  __m512i even, odd;

  FASTUNLEARN_AVX512_TARGET explicit DecimateRow(const Polyphase<float>& filter)
      : even_taps(every_second(filter.phases[0].weights, 0)),
        odd_taps(every_second(filter.phases[0].weights, 1)),
        source(filter.phases[0].source),
        even(_mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0)),
        odd(_mm512_add_epi32(even, _mm512_set1_epi32(1))) {}

  static std::vector<float> every_second(const std::vector<float>& taps, size_t first) {
    std::vector<float> half;
    for (size_t k = first; k < taps.size(); k += 2) half.push_back(taps[k]);
    return half;
  }

  template <typename Column>
  FASTUNLEARN_AVX512_TARGET INLINE void run(const Column& column, float* out, int64_t n) const {
    Samples samples(column, source);
    __m512 here_even, here_odd, next_even, next_odd;
    split(samples, next_even, next_odd);
    for (int64_t m = 0; m < n; m += lanes) {
      here_even = next_even;
      here_odd = next_odd;
      split(samples, next_even, next_odd);
      const __m512 sum = _mm512_add_ps(even_taps.sum(here_even, next_even), odd_taps.sum(here_odd, next_odd));
      store_row(out + m, n - m, sum);
    }
  }

  template <typename Samples>
  FASTUNLEARN_AVX512_TARGET INLINE void split(Samples& samples, __m512& evens, __m512& odds) const {
    const __m512 low = samples.next(), high = samples.next();
    evens = _mm512_permutex2var_ps(low, even, high);
    odds = _mm512_permutex2var_ps(low, odd, high);
  }
};

// out[2m + r] = Σ_k weights_r[k] · column[source_r + m + k]
template <int Taps>
struct InterleaveRow {
  Sliding<Taps> even_taps, odd_taps;
  int64_t even_source, odd_source;
  __m512i low, high;

  FASTUNLEARN_AVX512_TARGET explicit InterleaveRow(const Polyphase<float>& filter)
      : even_taps(filter.phases[0].weights),
        odd_taps(filter.phases[1].weights),
        even_source(filter.phases[0].source),
        odd_source(filter.phases[1].source),
        low(_mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0)),
        high(_mm512_add_epi32(low, _mm512_set1_epi32(lanes / 2))) {}

  template <typename Column>
  FASTUNLEARN_AVX512_TARGET INLINE void run(const Column& column, float* out, int64_t n) const {
    // The phases start at the same sample or at neighbours; three vectors reach far enough for both.
    const bool odd_later = odd_source > even_source, even_later = even_source > odd_source;
    const int64_t source = even_later ? odd_source : even_source;
    Samples samples(column, source);
    __m512 here, next = samples.next();
    for (int64_t m = 0; 2 * m < n; m += lanes) {
      here = next;
      next = samples.next();
      const __m512 later = shifted<1>(here, next);
      const __m512 later_next = shifted<1>(next, next);
      const __m512 evens = even_later ? even_taps.sum(later, later_next) : even_taps.sum(here, next);
      const __m512 odds = odd_later ? odd_taps.sum(later, later_next) : odd_taps.sum(here, next);
      store_row(out + 2 * m, n - 2 * m, _mm512_permutex2var_ps(evens, low, odds));
      if (n - 2 * m > lanes)
        store_row(out + 2 * m + lanes, n - 2 * m - lanes, _mm512_permutex2var_ps(evens, high, odds));
    }
  }
};

// Output rows `outputs`. A phase with fewer than RowTaps rows gets rows of zeros for the rest.
template <int RowTaps, typename Pass>
FASTUNLEARN_AVX512_TARGET void filter_rows(float* out, const Rows<float>& rows, int64_t size,
                                           const Polyphase<float>& along_columns, const Polyphase<float>& along_rows,
                                           Range outputs, int64_t out_w) {
  const Pass pass(along_rows);
  Column<RowTaps> column;
  column.size = size;
  int64_t r = outputs.begin % along_columns.period, start = outputs.begin / along_columns.period * along_columns.step;
  for (int64_t o = outputs.begin; o < outputs.end; ++o, out += out_w) {
    const Phase<float>& phase = along_columns.phases[r];
    const int64_t source = start + phase.source;
    if (++r == along_columns.period) {
      r = 0;
      start += along_columns.step;
    }
    const int taps = static_cast<int>(phase.weights.size());
    for (int k = 0; k < RowTaps; ++k) {
      column.rows[k] = k < taps ? rows(source + k) : rows.zero;
      column.weights[k] = _mm512_set1_ps(k < taps ? phase.weights[k] : 0.0f);
    }
    pass.run(column, out, out_w);
  }
}

// Whether filter_plane can do it.
inline bool fits_registers(const Polyphase<float>& along_columns, const Polyphase<float>& along_rows) {
  const auto few = [](const Phase<float>& phase) {
    return !phase.weights.empty() && phase.weights.size() <= most_taps;
  };
  const auto& columns = along_columns.phases;
  const auto& across = along_rows.phases;
  return has_avx512() && std::all_of(columns.begin(), columns.end(), few) && few(across[0]) &&
         ((across.size() == 1 && along_rows.step <= 2) ||
          (across.size() == 2 && along_rows.step == 1 && across[0].weights.size() == across[1].weights.size()));
}

template <typename Pass>
void filter_plane(float* out, const Rows<float>& rows, int64_t size, const Polyphase<float>& along_columns,
                  const Polyphase<float>& along_rows, Range outputs, int64_t out_w) {
  const bool two = std::all_of(along_columns.phases.begin(), along_columns.phases.end(),
                               [](const Phase<float>& phase) { return phase.weights.size() <= 2; });
  (two ? filter_rows<2, Pass> : filter_rows<most_taps, Pass>)(out, rows, size, along_columns, along_rows, outputs,
                                                              out_w);
}

template <int Taps>
void filter_plane_with(float* out, const Rows<float>& rows, int64_t size, const Polyphase<float>& along_columns,
                       const Polyphase<float>& along_rows, Range outputs, int64_t out_w) {
  const auto filter = along_rows.phases.size() == 2 ? filter_plane<InterleaveRow<Taps>>
                      : along_rows.step == 2        ? filter_plane<DecimateRow<Taps>>
                                                    : filter_plane<FilterRow<Taps>>;
  filter(out, rows, size, along_columns, along_rows, outputs, out_w);
}

// Both passes over output rows `outputs` of a plane whose rows are `size` samples long.
inline void filter_in_registers(float* out, const Rows<float>& rows, int64_t size,
                                const Polyphase<float>& along_columns, const Polyphase<float>& along_rows,
                                Range outputs, int64_t out_w) {
  constexpr decltype(&filter_plane_with<1>) by_taps[] = {filter_plane_with<1>, filter_plane_with<2>,
                                                         filter_plane_with<3>, filter_plane_with<4>};
  by_taps[along_rows.phases[0].weights.size() - 1](out, rows, size, along_columns, along_rows, outputs, out_w);
}

#else

inline bool fits_registers(const Polyphase<float>&, const Polyphase<float>&) {
  return false;
}
inline void filter_in_registers(float*, const Rows<float>&, int64_t, const Polyphase<float>&, const Polyphase<float>&,
                                Range, int64_t) {}

#endif
}  // namespace
}  // namespace fastunlearn::upfirdn2d
