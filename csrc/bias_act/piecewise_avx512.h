// bias_act in float32 with an activation that is linear on each side of 0, both ways: from memory to memory in
// registers, where a tile between the two costs as much as anything else. Two places far apart are worked on in turn,
// because a core gets more from memory that way than from one (README.md).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "bias_act/bias_act.h"
#include "common/avx512.h"
#include "common/launch.h"
#include "common/memory.h"
#include "common/vectors.h"

namespace fastunlearn::bias_act {

constexpr int64_t vector_size = 16;

// How [outer, channels, inner] is cut: into pieces of `length` neighbours, of which the last alone may be shorter.
// inner > 1: a piece is a part of one row, and its bias one number. inner = 1: it holds whole pixels.
struct Pieces {
  Extent extent;
  int64_t length;

  explicit Pieces(Extent whole) : extent(whole), length(whole.inner) {
    constexpr int64_t long_piece = 8192, pixels = 256;
    while (length > long_piece && length % (2 * sign_bits) == 0) length /= 2;
    if (in_pixels()) length = pixels * extent.channels;
  }

  bool in_pixels() const { return extent.inner == 1; }
  int64_t channel(int64_t piece) const { return piece * length / extent.inner % extent.channels; }
  // Sums of a piece: one, or one for each channel.
  int64_t sums() const { return in_pixels() ? extent.channels : 1; }
  int64_t count(int64_t n) const { return (n + length - 1) / length; }
  // Whether pieces of n elements in all consist of whole vectors, and of whole words of signs.
  bool fit(int64_t n) const {
    return n > 0 && n % sign_bits == 0 && (in_pixels() ? extent.channels % vector_size : extent.inner % sign_bits) == 0;
  }
};

#if defined(FASTUNLEARN_AVX512)

// Half a word of signs is those of a vector: the machine stores the low half first.
using VectorSigns = uint16_t;

FASTUNLEARN_AVX512_TARGET inline void put(float* to, const __m512& value, bool past_caches) {
  past_caches ? stream_line(to, _mm512_castps_si512(value)) : _mm512_storeu_ps(to, value);
}

// gain · act(u), clamped.
template <Activation A>
struct ForwardVector {
  __m512 alpha, gain, bound;

  FASTUNLEARN_AVX512_TARGET explicit ForwardVector(const Parameters<float>& p)
      : alpha(_mm512_set1_ps(p.alpha)),
        gain(_mm512_set1_ps(p.gain)),
        bound(_mm512_set1_ps(p.clamp < 0 ? INFINITY : p.clamp)) {}

  FASTUNLEARN_AVX512_TARGET INLINE __m512 operator()(const __m512& u) const {
    const __m512 zero = _mm512_setzero_ps();
    __m512 a = u;
    if (A == Activation::relu) a = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(u, zero, _CMP_NLT_UQ), u);
    if (A == Activation::lrelu) a = _mm512_mask_mul_ps(u, _mm512_cmp_ps_mask(u, zero, _CMP_NGT_UQ), u, alpha);
    // Where one of two is NaN the second is taken. (All lanes by mask: gcc warns of the plain intrinsics.)
    a = _mm512_maskz_min_ps(0xFFFF, bound, _mm512_mul_ps(gain, a));
    return _mm512_maskz_max_ps(0xFFFF, _mm512_sub_ps(zero, bound), a);
  }
};

template <Activation A>
struct ForwardPass {
  const float *x, *b;  // b may be null
  float* y;
  VectorSigns* signs;  // or null
  Parameters<float> p;
  bool past_caches;

  // Works on Streams pieces of n elements, each `apart` elements behind the one before it.
  template <bool InPixels, int Streams>
  FASTUNLEARN_AVX512_TARGET void run(const Pieces& pieces, int64_t piece, int64_t apart, int64_t n) const {
    const ForwardVector<A> activate(p);
    const __m512 zero = _mm512_setzero_ps(), side = _mm512_set1_ps(p.gain < 0 ? -1.0f : 1.0f);
    __m512 bias[Streams];
    for (int s = 0; s < Streams; ++s) {
      bias[s] = _mm512_set1_ps(b && !InPixels ? b[pieces.channel(piece + s * apart)] : 0.0f);
    }
    const int64_t begin = piece * pieces.length, stride = apart * pieces.length;
    for (int64_t i = begin, c = 0; i < begin + n; i += vector_size) {
      for (int s = 0; s < Streams; ++s) {
        const int64_t at = i + s * stride;
        const __m512 a = activate(_mm512_add_ps(_mm512_loadu_ps(x + at), InPixels ? _mm512_loadu_ps(b + c) : bias[s]));
        put(y + at, a, past_caches);
        if (signs) signs[at / vector_size] = _mm512_cmp_ps_mask(_mm512_mul_ps(a, side), zero, _CMP_GT_OQ);
      }
      if (InPixels && (c += vector_size) == pieces.extent.channels) c = 0;
    }
  }
};

// By halves. (gcc warns of the intrinsic that does the same.)
FASTUNLEARN_AVX512_TARGET inline float sum_of(const __m512& vector) {
  float lanes[vector_size];
  _mm512_storeu_ps(lanes, vector);
  for (int half = vector_size / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <Activation A>
struct BackwardPass {
  const float *grad_y, *ref;
  const VectorSigns* signs;  // read in place of ref, unless null
  float *grad_x, *sums;      // sums: of every piece in turn, or null
  Parameters<float> p;
  bool past_caches;

  template <bool InPixels, int Streams>
  FASTUNLEARN_AVX512_TARGET void run(const Pieces& pieces, int64_t piece, int64_t apart, int64_t n) const {
    const __m512 zero = _mm512_setzero_ps(), gain = _mm512_set1_ps(p.gain), bound = _mm512_set1_ps(p.clamp);
    const __m512 alpha = _mm512_set1_ps(A == Activation::relu ? 0.0f : p.alpha);
    const __m512 inverse_gain = _mm512_set1_ps(p.inverse_gain);
    __m512 sum[Streams];
    for (__m512& stream : sum) stream = zero;
    const int64_t begin = piece * pieces.length, stride = apart * pieces.length;
    for (int64_t i = begin, c = 0; i < begin + n; i += vector_size) {
      for (int s = 0; s < Streams; ++s) {
        const int64_t at = i + s * stride;
        __m512 grad = _mm512_mul_ps(_mm512_loadu_ps(grad_y + at), gain);
        if (A != Activation::linear) {
          const __mmask16 positive =
              signs ? signs[at / vector_size]
                    : _mm512_cmp_ps_mask(_mm512_mul_ps(_mm512_loadu_ps(ref + at), inverse_gain), zero, _CMP_GT_OQ);
          grad = _mm512_mask_mul_ps(grad, static_cast<__mmask16>(~positive), grad, alpha);
        }
        if (p.clamp >= 0) {
          const __m512 size = _mm512_abs_ps(_mm512_loadu_ps(ref + at));
          grad = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(size, bound, _CMP_LT_OQ), grad);
        }
        put(grad_x + at, grad, past_caches);
        if (!InPixels) {
          sum[s] = _mm512_add_ps(sum[s], grad);
        } else {
          float* const here = sums + (piece + s * apart) * pieces.extent.channels + c;
          _mm512_storeu_ps(here, _mm512_add_ps(_mm512_loadu_ps(here), grad));
        }
      }
      if (InPixels && (c += vector_size) == pieces.extent.channels) c = 0;
    }
    if (InPixels || !sums) return;
    for (int s = 0; s < Streams; ++s) sums[piece + s * apart] = sum_of(sum[s]);
  }
};

// Pieces [first, last) of n elements: a half of them from either of two places, what is left by itself.
template <bool InPixels, typename Pass>
void run_pieces(const Pass& pass, const Pieces& pieces, int64_t first, int64_t last, int64_t n) {
  constexpr int streams = 2;
  const int64_t whole = std::min(last, n / pieces.length), apart = (whole - first) / streams;
  for (int64_t piece = first; piece < first + apart; ++piece) {
    pass.template run<InPixels, streams>(pieces, piece, apart, pieces.length);
  }
  for (int64_t piece = first + apart * streams; piece < last; ++piece) {
    pass.template run<InPixels, 1>(pieces, piece, 0, std::min(pieces.length, n - piece * pieces.length));
  }
}

template <typename Pass>
void run_pieces(const Pass& pass, const Pieces& pieces, int64_t n) {
  parallel_range(pieces.count(n), pieces.length, [&](int64_t first, int64_t last) {
    (pieces.in_pixels() ? run_pieces<true, Pass> : run_pieces<false, Pass>)(pass, pieces, first, last, n);
    if (pass.past_caches) end_streams();
  });
}

// n elements, walked as `extent`: whether it was possible, and is done. `signs` is null or gets the signs of y.
template <Activation A, typename T, typename R>
bool forward_in_registers(const T* x, const R* b, T* y, uint32_t* signs, int64_t n, Extent extent,
                          const Parameters<R>& p) {
  if constexpr (is_piecewise_linear(A) && std::is_same_v<T, float>) {
    const Pieces pieces(extent);
    if (!has_avx512() || !pieces.fit(n)) return false;
    auto* const vectors = reinterpret_cast<VectorSigns*>(signs);
    run_pieces(ForwardPass<A>{x, b, y, vectors, p, streams_lines(y, n * sizeof(float))}, pieces, n);
    return true;
  }
  return false;
}

// `signs`, unless null, is read in place of ref; `totals`, unless null, increased by the sums of every channel of a
// walked row.
template <Activation A, typename T, typename R>
bool backward_in_registers(const T* grad_y, const T* ref, const uint32_t* signs, T* grad_x, double* totals, int64_t n,
                           Extent extent, const Parameters<R>& p) {
  if constexpr (is_piecewise_linear(A) && std::is_same_v<T, float>) {
    const Pieces pieces(extent);
    if (!has_avx512() || !pieces.fit(n)) return false;
    std::vector<float> sums(totals ? pieces.count(n) * pieces.sums() : 0);
    const auto* const vectors = reinterpret_cast<const VectorSigns*>(signs);
    run_pieces(BackwardPass<A>{grad_y, ref, vectors, grad_x, totals ? sums.data() : nullptr, p,
                               streams_lines(grad_x, n * sizeof(float))},
               pieces, n);
    for (size_t i = 0; i < sums.size(); ++i) {
      totals[pieces.in_pixels() ? i % extent.channels : pieces.channel(i)] += sums[i];
    }
    return true;
  }
  return false;
}

#else

template <Activation, typename... Arguments>
bool forward_in_registers(const Arguments&...) {
  return false;
}
template <Activation, typename... Arguments>
bool backward_in_registers(const Arguments&...) {
  return false;
}

#endif
}  // namespace fastunlearn::bias_act
