// Element-wise kernels on the CPU work tile by tile: in the arithmetic type, whatever is stored, and written past the
// caches where that pays.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/launch.h"
#include "common/memory.h"

namespace fastunlearn {

// Elements that are converted, streamed or given signs at once; they stay in the first-level cache.
constexpr int64_t tile = 512;

template <typename To, typename From>
FASTUNLEARN_CLONES static void convert(const From* from, To* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
}

// Elements [begin, stop) in the arithmetic type: where they are, or converted into the buffer.
template <typename T, typename R>
const R* read(const T* data, int64_t begin, int64_t stop, R* buffer) {
  if constexpr (std::is_same_v<T, R>) {
    return data + begin;
  } else {
    convert(data + begin, buffer, stop - begin);
    return buffer;
  }
}

// One result, written tile by tile: in place, or through a buffer where it is of another type or streamed.
template <typename T, typename R>
class Result {
 public:
  Result(T* data, int64_t numel) : data_(data), stream_(streams(numel * sizeof(T))) {}
  ~Result() {
    if (stream_) end_streams();
  }

  // Whether it is written past the caches.
  bool past_caches() const { return stream_; }

  // Where the kernel shall put elements from `begin` on.
  R* place(int64_t begin) {
    if constexpr (std::is_same_v<T, R>) {
      if (!stream_) return data_ + begin;
    }
    return buffer_;
  }

  // The kernel has put them there.
  void finish(int64_t begin, int64_t stop) {
    if constexpr (std::is_same_v<T, R>) {
      if (stream_) stream(buffer_, data_ + begin, (stop - begin) * sizeof(T));
    } else {
      convert(buffer_, data_ + begin, stop - begin);
    }
  }

  // These elements of `from`, to the bit.
  void copy(const T* from, int64_t begin, int64_t stop) {
    const int64_t bytes = (stop - begin) * sizeof(T);
    stream_ ? stream(from + begin, data_ + begin, bytes)
            : static_cast<void>(std::memcpy(data_ + begin, from + begin, bytes));
  }

 private:
  T* data_;
  bool stream_;
  alignas(64) R buffer_[tile];
};

}  // namespace fastunlearn
