// Stands in for CUDA's header, so that the .cu files compile as plain C++ and their threads run as fibers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static thread_local
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define FASTUNLEARN_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(fibers::dynamic_shared())

constexpr int warpSize = 32;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  operator fibers::Index3() const { return {x, y, z}; }
};

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess };
inline const char* cudaGetErrorString(cudaError_t) {
  return "no error";
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  fibers::launch(config->gridDim, config->blockDim, config->dynamicSmemBytes, [&] { std::apply(kernel, values); });
  return cudaSuccess;
}

inline void __syncthreads() {
  fibers::synchronize_block();
}
inline int __syncthreads_count(int vote) {
  return fibers::synchronize_block(vote != 0).count;
}
inline int __syncthreads_and(int vote) {
  return fibers::synchronize_block(vote != 0).all;
}
inline int __syncthreads_or(int vote) {
  return fibers::synchronize_block(vote != 0).any;
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  fibers::synchronize_warp(mask);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace fibers {

// The value of lane `source`, or the caller's own where the source lies outside its segment.
template <typename T>
T shuffle(uint32_t mask, T value, unsigned source, bool inside) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  word = synchronize_warp(mask, word)[source % 32];
  T other;
  std::memcpy(&other, &word, sizeof other);
  return inside ? other : value;
}

inline uint32_t ballot(uint32_t mask, bool vote) {
  const uint64_t* votes = synchronize_warp(mask, vote);
  uint32_t result = 0;
  for (unsigned lane = 0; lane < 32; ++lane) result |= static_cast<uint32_t>(votes[lane]) << lane;
  return result & mask;
}

}  // namespace fibers

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const unsigned first = fibers::lane() & ~(width - 1u);
  return fibers::shuffle(mask, value, first + (source & (width - 1u)), true);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = fibers::lane();
  return fibers::shuffle(mask, value, lane - delta, (lane & (width - 1u)) >= delta);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = fibers::lane();
  return fibers::shuffle(mask, value, lane + delta, (lane & (width - 1u)) + delta < static_cast<unsigned>(width));
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
  const unsigned lane = fibers::lane(), source = lane ^ static_cast<unsigned>(bits);
  return fibers::shuffle(mask, value, source, (source & ~(width - 1u)) == (lane & ~(width - 1u)));
}
inline uint32_t __ballot_sync(uint32_t mask, int vote) {
  return fibers::ballot(mask, vote != 0);
}
inline int __any_sync(uint32_t mask, int vote) {
  return fibers::ballot(mask, vote != 0) != 0;
}
inline int __all_sync(uint32_t mask, int vote) {
  return fibers::ballot(mask, vote != 0) == mask;
}

// Fibers never run at the same time: a plain read and write is atomic.
template <typename T>
T atomicExch(T* address, T value) {
  const T old = *address;
  *address = value;
  return old;
}
template <typename T>
T atomicAdd(T* address, T value) {
  return atomicExch(address, static_cast<T>(*address + value));
}
template <typename T>
T atomicMax(T* address, T value) {
  return atomicExch(address, *address < value ? value : *address);
}
template <typename T>
T atomicMin(T* address, T value) {
  return atomicExch(address, value < *address ? value : *address);
}
template <typename T>
T atomicCAS(T* address, T compare, T value) {
  return atomicExch(address, *address == compare ? value : *address);
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}
inline int __clz(int bits) {
  return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits));
}
inline int __ffs(int bits) {
  return __builtin_ffs(bits);
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
