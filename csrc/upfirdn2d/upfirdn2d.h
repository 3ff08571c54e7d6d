// The index maths of upfirdn2d, shared by the CPU and the CUDA kernels.
//
// Along one axis, with u the signal x after up − 1 zeros were put behind every sample and f in the order in which its
// taps meet the signal:
//
//   y[o] = Σ_t f[t] · u[o·down − pad + t],   0 ≤ t < taps
//
// u is zero except at multiples of `up`. So an output meets the taps first_tap, first_tap + up, …, and they lie on the
// neighbouring samples x[source], x[source + 1], …; samples outside 0 ≤ i < in count as zero.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace fastunlearn::upfirdn2d {

struct Axis {
  int64_t in, out, up, down, pad, taps;
};

struct Reach {
  int64_t first_tap, source, count;
};

template <typename Integer>
C10_HOST_DEVICE inline Integer ceil_div(Integer a, Integer b) {
  return a / b + (a % b > 0);
}

C10_HOST_DEVICE inline Reach reach(const Axis& axis, int64_t o) {
  const int64_t start = o * axis.down - axis.pad;
  const int64_t source = ceil_div(start, axis.up);
  const int64_t first_tap = source * axis.up - start;
  return {first_tap, source, first_tap < axis.taps ? ceil_div(axis.taps - first_tap, axis.up) : 0};
}

}  // namespace fastunlearn::upfirdn2d
