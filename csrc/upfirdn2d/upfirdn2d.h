// The index maths of upfirdn2d, shared by the CPU and the CUDA kernels.
//
// Along one axis, with u the signal x after up − 1 zeros were put behind every sample:
//
//   y[o] = Σ_t f[t] · u[o·down − pad + t],   0 ≤ t < taps
//
// and u is zero except at multiples of `up`. So an output meets the taps first_tap, first_tap + up, …, and they lie on
// consecutive samples x[source], x[source + 1], …; samples outside 0 ≤ i < in count as zero.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define UPFIRDN2D_INLINE __host__ __device__ __forceinline__
#else
#define UPFIRDN2D_INLINE inline
#endif

namespace fastunlearn {

struct Axis {
  int64_t in, out, up, down, pad, taps;
};

struct Reach {
  int64_t first_tap, source, count;
};

UPFIRDN2D_INLINE int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }

UPFIRDN2D_INLINE Reach reach(const Axis& axis, int64_t o) {
  const int64_t start = o * axis.down - axis.pad;
  const int64_t source = ceil_div(start, axis.up);
  const int64_t first_tap = source * axis.up - start;
  return {first_tap, source, first_tap < axis.taps ? ceil_div(axis.taps - first_tap, axis.up) : 0};
}

inline int64_t output_size(int64_t in, int64_t up, int64_t down, int64_t pad0, int64_t pad1, int64_t taps) {
  const int64_t span = in * up + pad0 + pad1 - taps;
  return span < 0 ? 0 : span / down + 1;
}

}  // namespace fastunlearn
