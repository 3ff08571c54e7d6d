// A separable filter of up to four taps a phase on an image of float32 whose pixels hold a multiple of 16 channels
// (channels_last): the vertical pass writes one pixel at a time into a ring of a few, which the first-level cache
// holds, and the horizontal pass reads its taps from there. Memory is read and written in the order in which it lies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/memory.h"
#include "upfirdn2d/rows_avx512.h"

namespace fastunlearn::upfirdn2d {
namespace {

#if defined(FASTUNLEARN_AVX512)

// Whether filter_pixels can do it.
inline bool fits_pixels(const Polyphase<float>& along_columns, const Polyphase<float>& along_rows, int64_t channels) {
  const auto few = [](const Polyphase<float>& filter) {
    return std::all_of(filter.phases.begin(), filter.phases.end(), [](const Phase<float>& phase) {
      return !phase.weights.empty() && phase.weights.size() <= most_taps;
    });
  };
  return has_avx512() && channels > 1 && channels % lanes == 0 && few(along_columns) && few(along_rows) &&
         along_rows.step <= most_taps;
}

// out[c] = Σ_k weights[k] · from[k][c] for one pixel's channels.
template <int Taps>
FASTUNLEARN_AVX512_TARGET inline void weigh(const float* const* from, const float* weights, float* out,
                                            int64_t channels, bool past_caches) {
  __m512 w[Taps];
  for (int k = 0; k < Taps; ++k) w[k] = _mm512_set1_ps(weights[k]);
  for (int64_t c = 0; c < channels; c += lanes) {
    __m512 sum = _mm512_mul_ps(w[0], _mm512_loadu_ps(from[0] + c));
    for (int k = 1; k < Taps; ++k) sum = _mm512_fmadd_ps(w[k], _mm512_loadu_ps(from[k] + c), sum);
    if (past_caches) {
      stream_line(out + c, _mm512_castps_si512(sum));
    } else {
      _mm512_storeu_ps(out + c, sum);
    }
  }
}

FASTUNLEARN_AVX512_TARGET inline void weigh(const float* const* from, const std::vector<float>& weights, float* out,
                                            int64_t channels, bool past_caches) {
  switch (weights.size()) {
    case 1:
      return weigh<1>(from, weights.data(), out, channels, past_caches);
    case 2:
      return weigh<2>(from, weights.data(), out, channels, past_caches);
    case 3:
      return weigh<3>(from, weights.data(), out, channels, past_caches);
    default:
      return weigh<4>(from, weights.data(), out, channels, past_caches);
  }
}

// Output rows `outputs` of an image whose rows are `size` pixels long, to out; past_caches needs it aligned to lines.
FASTUNLEARN_AVX512_TARGET inline void filter_pixels(float* out, const Rows<float>& rows, int64_t size,
                                                    const Polyphase<float>& along_columns,
                                                    const Polyphase<float>& along_rows, Range outputs, int64_t out_w,
                                                    int64_t channels, bool past_caches) {
  constexpr int64_t ring_pixels = 8;  // an output meets four at most, and none before those of the output before it
  LineVector<float> ring(ring_pixels * channels);
  const auto period = static_cast<int64_t>(along_rows.phases.size());
  for (int64_t o = outputs.begin; o < outputs.end; ++o) {
    const Phase<float>& column = along_columns.phases[o % along_columns.period];
    const auto taps = static_cast<int64_t>(column.weights.size());
    const float* lines[most_taps];
    for (int64_t k = 0; k < taps; ++k) {
      lines[k] = rows(o / along_columns.period * along_columns.step + column.source + k);
    }
    // The lines that the row before has not met; their next cache lines are asked for in time.
    const int64_t fresh = std::max<int64_t>(0, taps - along_columns.step);
    const auto sample = [&](int64_t i) { return ring.data() + (i & (ring_pixels - 1)) * channels; };
    int64_t done = along_rows.phases[0].source;
    for (int64_t r = 1; r < period; ++r) done = std::min(done, along_rows.phases[r].source);
    int64_t r = 0, start = 0;
    for (int64_t pixel = 0; pixel < out_w; ++pixel, out += channels) {
      const Phase<float>& across = along_rows.phases[r];
      const int64_t first = start + across.source;
      const auto count = static_cast<int64_t>(across.weights.size());
      for (; done < first + count; ++done) {
        if (done < 0 || done >= size) {
          std::fill_n(sample(done), channels, 0.0f);
          continue;
        }
        const float* here[most_taps];
        for (int64_t k = 0; k < taps; ++k) here[k] = lines[k] + done * channels;
        for (int64_t k = fresh; k < taps; ++k) {
          for (int64_t c = 0; c < channels; c += lanes) {
            _mm_prefetch(reinterpret_cast<const char*>(here[k] + ahead + c), _MM_HINT_T0);
          }
        }
        weigh(here, column.weights, sample(done), channels, false);
      }
      const float* from[most_taps];
      for (int64_t k = 0; k < count; ++k) from[k] = sample(first + k);
      weigh(from, across.weights, out, channels, past_caches);
      if (++r == period) {
        r = 0;
        start += along_rows.step;
      }
    }
  }
}

// Whether slide_pixels can do what filter_pixels can.
inline bool slides(const Polyphase<float>& along_rows) {
  return along_rows.period == 1 && along_rows.step == 1;
}

// What becomes of a sum of the filter: nothing.
struct AsItIs {
  AsItIs of_channels(int64_t, int64_t) const { return *this; }
  FASTUNLEARN_AVX512_TARGET INLINE __m512 operator()(const __m512& sum, int64_t) const { return sum; }
};

FASTUNLEARN_AVX512_TARGET INLINE __m512 weigh(const float* const* lines, const __m512* weights, int64_t at) {
  // The row that is new, beyond the neighbours whose other channels come first.
  _mm_prefetch(reinterpret_cast<const char*>(lines[most_taps - 1] + at + 4 * ahead), _MM_HINT_T0);
  __m512 sum = _mm512_mul_ps(weights[0], _mm512_loadu_ps(lines[0] + at));
  for (int k = 1; k < most_taps; ++k) sum = _mm512_fmadd_ps(weights[k], _mm512_loadu_ps(lines[k] + at), sum);
  return sum;
}

// The same where neighbours share all samples but one (no resampling along rows): a vector of channels at a time, whose
// last sums of the vertical pass stay in registers. What becomes of a vector is end.of_channels(row, channel)'s to say.
template <int Taps, typename End>
FASTUNLEARN_AVX512_TARGET void slide_pixels(float* out, const Rows<float>& rows, int64_t size,
                                            const Polyphase<float>& along_columns, const Polyphase<float>& along_rows,
                                            Range outputs, int64_t out_w, int64_t channels, bool past_caches,
                                            const End& end) {
  // Pixels whose channels are all worked on before the next: enough to share sums, few enough for the first-level
  // cache.
  const int64_t neighbours = std::clamp<int64_t>(1024 / channels, 4, 16);
  const Phase<float>& across = along_rows.phases[0];
  __m512 row_weights[Taps];
  for (int k = 0; k < Taps; ++k) row_weights[k] = _mm512_set1_ps(across.weights[k]);
  for (int64_t o = outputs.begin; o < outputs.end; ++o, out += out_w * channels) {
    const Phase<float>& column = along_columns.phases[o % along_columns.period];
    const int64_t source = o / along_columns.period * along_columns.step + column.source;
    // Rows of zeros first, where taps are fewer.
    const int64_t missing = most_taps - static_cast<int64_t>(column.weights.size());
    const float* lines[most_taps];
    __m512 weights[most_taps];
    for (int64_t k = 0; k < most_taps; ++k) {
      lines[k] = k < missing ? rows.zero : rows(source + k - missing);
      weights[k] = _mm512_set1_ps(k < missing ? 0.0f : column.weights[k - missing]);
    }
    for (int64_t first = 0; first < out_w; first += neighbours) {
      const int64_t last = std::min(first + neighbours, out_w);
      for (int64_t c = 0; c < channels; c += lanes) {
        const auto finish = end.of_channels(o - outputs.begin, c);
        __m512 sums[Taps];
        for (__m512& sum : sums) sum = _mm512_setzero_ps();
        for (int64_t pixel = first - Taps + 1; pixel < last; ++pixel) {
          for (int k = 0; k + 1 < Taps; ++k) sums[k] = sums[k + 1];
          const int64_t met = pixel + across.source + Taps - 1;
          sums[Taps - 1] = met < 0 || met >= size ? _mm512_setzero_ps() : weigh(lines, weights, met * channels + c);
          if (pixel < first) continue;
          __m512 sum = _mm512_mul_ps(row_weights[0], sums[0]);
          for (int k = 1; k < Taps; ++k) sum = _mm512_fmadd_ps(row_weights[k], sums[k], sum);
          sum = finish(sum, pixel);
          float* const to = out + pixel * channels + c;
          past_caches ? stream_line(to, _mm512_castps_si512(sum)) : _mm512_storeu_ps(to, sum);
        }
      }
    }
  }
}

template <typename End>
void slide_pixels(float* out, const Rows<float>& rows, int64_t size, const Polyphase<float>& along_columns,
                  const Polyphase<float>& along_rows, Range outputs, int64_t out_w, int64_t channels, bool past_caches,
                  const End& end) {
  constexpr decltype(&slide_pixels<1, End>) by_taps[] = {slide_pixels<1, End>, slide_pixels<2, End>,
                                                         slide_pixels<3, End>, slide_pixels<4, End>};
  by_taps[along_rows.phases[0].weights.size() - 1](out, rows, size, along_columns, along_rows, outputs, out_w, channels,
                                                   past_caches, end);
}

#else

struct AsItIs {};
inline bool slides(const Polyphase<float>&) {
  return false;
}
template <typename... Arguments>
void slide_pixels(const Arguments&...) {}
inline bool fits_pixels(const Polyphase<float>&, const Polyphase<float>&, int64_t) {
  return false;
}
inline void filter_pixels(float*, const Rows<float>&, int64_t, const Polyphase<float>&, const Polyphase<float>&, Range,
                          int64_t, int64_t, bool) {}

#endif
}  // namespace
}  // namespace fastunlearn::upfirdn2d
