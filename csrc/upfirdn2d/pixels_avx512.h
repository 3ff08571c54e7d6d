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

#else

inline bool fits_pixels(const Polyphase<float>&, const Polyphase<float>&, int64_t) {
  return false;
}
inline void filter_pixels(float*, const Rows<float>&, int64_t, const Polyphase<float>&, const Polyphase<float>&, Range,
                          int64_t, int64_t, bool) {}

#endif
}  // namespace
}  // namespace fastunlearn::upfirdn2d
