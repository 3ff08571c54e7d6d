// Explicit vectors on the CPU, one copy of a loop for each register size: for inner loops that must keep sums in
// registers, or that the compiler would leave scalar.
#pragma once

#include <cstdint>

// What a function for one target calls must be inlined into it, or it would run as baseline code.
#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
#else
#define INLINE inline
#define INLINE_LAMBDA
#endif

// One wheel for every x86-64: define(bytes) once for each size of register, and the loader picks. (FASTUNLEARN_CLONES
// would give all of them the same vectors.)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_TARGET(define)                                                                             \
  __attribute__((target("arch=x86-64-v4"))) define(64) __attribute__((target("arch=x86-64-v3"))) define(32) \
      __attribute__((target("default"))) define(16)
#else
#define FOR_EACH_TARGET(define) define(16)
#endif

namespace fastunlearn {

// V elements at an address of any alignment.
template <typename T, int V>
struct VectorOf {
  typedef T type __attribute__((vector_size(V * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <typename T, int V>
using Vector = typename VectorOf<T, V>::type;

template <int V, typename T>
INLINE const Vector<T, V>& load(const T* p) {
  return *reinterpret_cast<const Vector<T, V>*>(p);
}

template <int V, bool Add, typename T>
INLINE void store(T* p, const Vector<T, V>& value) {
  auto& to = *reinterpret_cast<Vector<T, V>*>(p);
  to = Add ? to + value : value;
}

}  // namespace fastunlearn
