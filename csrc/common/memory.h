// Large results on the CPU: how they are written.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "common/avx512.h"

namespace fastunlearn {

// std::vector whose elements begin on a cache line: a vector store that straddles two costs twice.
template <typename T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <typename U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{64}); }
  bool operator==(const LineAllocator&) const { return true; }
  bool operator!=(const LineAllocator&) const { return false; }
};
template <typename T>
using LineVector = std::vector<T, LineAllocator<T>>;

// Whether a result of this size is worth writing past the caches: it would push out everything else and be gone from
// them before it is read, and a store of a whole line into memory need not read that line first.
inline bool streams(int64_t bytes, int64_t from = int64_t{8} << 20) {
#if defined(FASTUNLEARN_AVX512)
  return has_avx512() && bytes >= from;
#else
  return bytes < 0 && from < 0;
#endif
}

// And whether it can be written line by line from its start.
inline bool streams_lines(const void* result, int64_t bytes) {
  return streams(bytes) && reinterpret_cast<uintptr_t>(result) % 64 == 0;
}

// n elements from here on will be read soon: into the second-level cache.
template <typename T>
void ask_for(const T* data, int64_t n) {
#if defined(__GNUC__)
  constexpr int64_t per_line = 64 / sizeof(T);
  for (int64_t i = 0; i < n; i += per_line) __builtin_prefetch(data + i, 0, 2);
#endif
}

#if defined(FASTUNLEARN_AVX512)
// One line past the caches. The first line of a page would wait for the page's translation, which the processor looks
// up early for what is read only: so a line of the next page is asked for.
FASTUNLEARN_AVX512_TARGET inline void stream_line(void* to, const __m512i& line) {
  constexpr uintptr_t page = 4096;
  if (reinterpret_cast<uintptr_t>(to) % page == 0) _mm_prefetch(static_cast<const char*>(to) + page, _MM_HINT_T0);
  _mm512_stream_si512(static_cast<__m512i*>(to), line);
}

// memcpy past the caches, where streams() allows it: whole cache lines, and what is left at either end as usual. Other
// threads may read what was written after end_streams().
FASTUNLEARN_AVX512_TARGET inline void stream(const void* from, void* to, int64_t bytes) {
  constexpr int64_t line = 64;
  const auto* in = static_cast<const char*>(from);
  auto* out = static_cast<char*>(to);
  const int64_t head = std::min<int64_t>(bytes, -reinterpret_cast<uintptr_t>(to) % line);
  std::memcpy(out, in, head);
  for (out += head, in += head, bytes -= head; bytes >= line; out += line, in += line, bytes -= line) {
    stream_line(out, _mm512_loadu_si512(in));
  }
  std::memcpy(out, in, bytes);
}
inline void end_streams() {
  _mm_sfence();
}

// The same for a few vectors, which may still be in registers. `to` is aligned to 16 bytes.
template <int bytes>
__attribute__((always_inline)) inline void stream_aligned(const void* from, void* to) {
  for (int i = 0; i < bytes / 16; ++i) {
    _mm_stream_si128(static_cast<__m128i*>(to) + i, _mm_loadu_si128(static_cast<const __m128i*>(from) + i));
  }
}
#else
inline void stream(const void* from, void* to, int64_t bytes) {
  std::memcpy(to, from, bytes);
}
inline void end_streams() {}
template <int bytes>
inline void stream_aligned(const void* from, void* to) {
  std::memcpy(to, from, bytes);
}
#endif

}  // namespace fastunlearn
