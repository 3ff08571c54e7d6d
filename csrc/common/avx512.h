// AVX-512 intrinsics for host code in the few places where compilers do not find the instruction themselves. A function
// that uses them carries FASTUNLEARN_AVX512_TARGET and is called only where has_avx512() is true.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__CUDACC__)
#include <immintrin.h>
#define FASTUNLEARN_AVX512 1
#define FASTUNLEARN_AVX512_TARGET __attribute__((target("avx512f")))

namespace fastunlearn {

inline bool has_avx512() {
  static const bool supported = __builtin_cpu_supports("avx512f");
  return supported;
}

}  // namespace fastunlearn
#endif
