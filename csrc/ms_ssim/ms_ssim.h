// The formula of SSIM at one window, and its derivatives, shared by the CPU and the CUDA kernels.
//
// With the weighted means of a = x + y, a², b = x − y and b² under the window and their variances
//
//   A = m[a²] − m[a]²    B = m[b²] − m[b]²
//
// contrast-structure and luminance, both from 1 downwards, are
//
//   cs = (2 σxy + c2) / (σxx + σyy + c2) = 1 − 2 B / p       p = A + B + 2 c2
//   l  = (2 μx μy + c1) / (μx² + μy² + c1) = 1 − 2 m[b]² / q   q = m[a]² + m[b]² + 2 c1
//
// That is four filters where μx, μy, σxx, σyy and σxy take five, and equal images give 1 exactly.
//
// A cancels for images whose mean is large against their contrast. So a constant near half the mean is taken from every
// x and y. For windows whose weights add up to something else than 1 that changes m[a²] − m[a]²; `slope` and `offset`
// put it right.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace fastunlearn::ms_ssim {

// Of one plane: one channel of one image at one scale.
template <typename T>
struct Formula {
  T c1, c2;
  T shift;          // taken from x and from y
  T mean;           // m[a] − m[a − 2 · shift]
  T slope, offset;  // A = m[a'²] − m[a']² + slope · m[a'] + offset, for a' = a − 2 · shift

  C10_HOST_DEVICE Formula(double c1, double c2, T shift, double sum_of_weights)
      : c1(static_cast<T>(c1)), c2(static_cast<T>(c2)), shift(shift) {
    const double total = 2.0 * static_cast<double>(shift), missing = 1 - sum_of_weights;
    mean = static_cast<T>(total * sum_of_weights);
    slope = static_cast<T>(2 * total * missing);
    offset = static_cast<T>(total * total * sum_of_weights * missing);
  }
};

// Means under the window of a' = a − 2 · shift, a'², b and b².
template <typename T>
struct Means {
  T a, aa, b, bb;
};

// Derivatives by the means under the window of x, y, a'² and b².
template <typename T>
struct Slopes {
  T x, y, aa, bb;
};

// 1 − cs, or 1 − l · cs.
template <bool Luminance, typename T>
C10_HOST_DEVICE inline T loss(const Means<T>& m, const Formula<T>& f) {
  const T b2 = m.b * m.b;
  const T var_a = m.aa - m.a * (m.a - f.slope) + f.offset, var_b = m.bb - b2;
  const T p = var_a + var_b + 2 * f.c2;
  if (!Luminance) return 2 * var_b / p;
  const T mean_a = m.a + f.mean, q = mean_a * mean_a + b2 + 2 * f.c1;
  return 2 * (q * var_b + (p - 2 * var_b) * b2) / (p * q);
}

// The derivatives of cs, or of l · cs.
template <bool Luminance, typename T>
C10_HOST_DEVICE inline Slopes<T> slopes(const Means<T>& m, const Formula<T>& f) {
  const T b2 = m.b * m.b;
  const T var_a = m.aa - m.a * (m.a - f.slope) + f.offset, var_b = m.bb - b2;
  const T r = 1 / (var_a + var_b + 2 * f.c2);
  T by_a = 2 * (var_b * r) * r, by_b = -2 * ((var_a + 2 * f.c2) * r) * r;  // by the variances
  T luminance_a = 0, luminance_b = 0;                                      // by the means, through l
  if (Luminance) {
    const T mean_a = m.a + f.mean, a2 = mean_a * mean_a, s = 1 / (a2 + b2 + 2 * f.c1);
    const T l = 1 - 2 * b2 * s, cs = 1 - 2 * var_b * r;
    by_a *= l;
    by_b *= l;
    luminance_a = 4 * cs * (b2 * s) * (mean_a * s);
    luminance_b = -4 * cs * ((a2 + 2 * f.c1) * s) * (m.b * s);
  }
  const T a = luminance_a - by_a * (2 * m.a - f.slope), b = luminance_b - by_b * 2 * m.b;
  return {a + b, a - b, by_a, by_b};
}

// A level of the pyramid is the mean over 2 × 2 pixels of the one above, which has a row and a column of zeros before
// its first where its size is odd.
C10_HOST_DEVICE inline int64_t halved(int64_t size) {
  return (size + 1) / 2;
}

}  // namespace fastunlearn::ms_ssim
