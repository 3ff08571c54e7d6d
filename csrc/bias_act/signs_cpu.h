// Signs on the CPU: a bit an element, packed and unpacked tile by tile.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "bias_act/bias_act.h"
#include "common/avx512.h"

namespace fastunlearn::bias_act {

// Bit i is whether y[i] / gain is positive, for n ≤ sign_bits outputs.
template <typename R>
uint32_t sign_word(const R* y, int64_t n, R gain) {
  uint32_t word = 0;
  for (int64_t i = 0; i < n; ++i) word |= uint32_t{gain < 0 ? y[i] < 0 : y[i] > 0} << i;
  return word;
}

#if defined(FASTUNLEARN_AVX512)
// AVX-512 compares into bits and blends by bits.

FASTUNLEARN_AVX512_TARGET inline void pack_words(const float* y, int64_t words, float gain, uint32_t* signs) {
  const __m512 zero = _mm512_setzero_ps(), side = _mm512_set1_ps(gain < 0 ? -1.0f : 1.0f);
  for (int64_t word = 0; word < words; ++word, y += sign_bits) {
    const uint32_t low = _mm512_cmp_ps_mask(_mm512_mul_ps(_mm512_loadu_ps(y), side), zero, _CMP_GT_OQ);
    const uint32_t high = _mm512_cmp_ps_mask(_mm512_mul_ps(_mm512_loadu_ps(y + 16), side), zero, _CMP_GT_OQ);
    signs[word] = low | high << 16;
  }
}

FASTUNLEARN_AVX512_TARGET inline void unpack_words(const uint32_t* signs, int64_t words, float gain, float* out) {
  const __m512 positive = _mm512_set1_ps(gain), negative = _mm512_set1_ps(-gain);
  for (int64_t word = 0; word < words; ++word, out += sign_bits) {
    _mm512_storeu_ps(out, _mm512_mask_blend_ps(__mmask16(signs[word]), negative, positive));
    _mm512_storeu_ps(out + 16, _mm512_mask_blend_ps(__mmask16(signs[word] >> 16), negative, positive));
  }
}
#endif

// Sets the signs of n outputs, from the first bit of `signs` on; what is left of the last word becomes 0.
template <typename R>
void write_signs(const R* y, int64_t n, R gain, uint32_t* signs) {
  int64_t begin = 0;
#if defined(FASTUNLEARN_AVX512)
  if constexpr (std::is_same_v<R, float>) {
    if (has_avx512()) {
      pack_words(y, n / sign_bits, gain, signs);
      begin = n / sign_bits * sign_bits;
    }
  }
#endif
  for (; begin < n; begin += sign_bits) {
    signs[begin / sign_bits] = sign_word(y + begin, std::min<int64_t>(n - begin, sign_bits), gain);
  }
}

// The signs of [begin, stop) as outputs that have the same slope: ±gain. `buffer` has room for a word more than those.
template <typename R>
const R* read_signs(const uint32_t* signs, int64_t begin, int64_t stop, R gain, R* buffer) {
  const int64_t first = begin / sign_bits, words = sign_words(stop) - first;
  const R* const result = buffer + begin % sign_bits;
#if defined(FASTUNLEARN_AVX512)
  if constexpr (std::is_same_v<R, float>) {
    if (has_avx512()) {
      unpack_words(signs + first, words, gain, buffer);
      return result;
    }
  }
#endif
  for (int64_t word = 0; word < words; ++word, buffer += sign_bits) {
    for (int bit = 0; bit < sign_bits; ++bit) buffer[bit] = signs[first + word] >> bit & 1 ? gain : -gain;
  }
  return result;
}

}  // namespace fastunlearn::bias_act
