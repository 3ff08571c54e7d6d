// The device bodies of bias_act. A thread works on elements that are neighbours of its neighbours' in memory.
#pragma once

#include <cuda_runtime.h>

#include "bias_act/bias_act.h"

namespace fastunlearn::bias_act {

constexpr int block_threads = 256;
constexpr int tile_columns = 32, tile_rows = block_threads / tile_columns;

template <typename T, typename R>
__device__ R bias_at(const T* b, int64_t i, const Extent& extent) {
  return b ? R(b[i / extent.inner % extent.channels]) : R(0);
}

// What backward_element gets of element i: ref, or an output that has the same slope.
template <typename T, typename R>
__device__ R ref_at(const T* ref, const uint32_t* signs, int64_t i, const Parameters<R>& p) {
  if (!signs) return R(ref[i]);
  return signs[i / sign_bits] >> (i % sign_bits) & 1 ? p.gain : -p.gain;
}

// `signs` is null or gets a word from each warp, whose threads work on one word's elements.
template <Activation A, typename T, typename R>
__global__ void forward_kernel(const T* x, const T* b, T* y, uint32_t* signs, Extent extent, Parameters<R> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x, n = extent.numel();
  const int lane = threadIdx.x % sign_bits;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i - lane < n; i += step) {
    bool positive = false;
    if (i < n) {
      const R out = forward_element<A>(R(x[i]), bias_at<T, R>(b, i, extent), p);
      y[i] = T(out);
      positive = out * p.inverse_gain > 0;
    }
    if (signs) {
      const uint32_t word = __ballot_sync(0xffffffffu, positive);
      if (lane == 0) signs[i / sign_bits] = word;
    }
  }
}

template <Activation A, typename T, typename R>
__global__ void backward_kernel(const T* grad_y, const T* ref, const uint32_t* signs, const T* b, T* grad_x,
                                Extent extent, Parameters<R> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x, n = extent.numel();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    grad_x[i] = T(backward_element<A>(R(grad_y[i]), ref_at(ref, signs, i, p), bias_at<T, R>(b, i, extent), p));
  }
}

// inner > 1: block (channel, part) works on a contiguous share of the channel's outer · inner elements and writes their
// sum to sums[part][channel].
template <Activation A, typename T, typename R>
__global__ void backward_rows_kernel(const T* grad_y, const T* ref, const uint32_t* signs, const T* b, T* grad_x,
                                     R* sums, Extent extent, Parameters<R> p) {
  __shared__ R shared[block_threads];
  const int64_t channel = blockIdx.x, of_channel = extent.outer * extent.inner;
  const int64_t share = (of_channel + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * share;
  const int64_t end = begin + share < of_channel ? begin + share : of_channel;
  const R bias = b ? R(b[channel]) : R(0);
  R sum = 0;
  for (int64_t k = begin + threadIdx.x; k < end; k += block_threads) {
    const int64_t i = (k / extent.inner * extent.channels + channel) * extent.inner + k % extent.inner;
    const R g = backward_element<A>(R(grad_y[i]), ref_at(ref, signs, i, p), bias, p);
    grad_x[i] = T(g);
    sum += g;
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned half = block_threads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.y * extent.channels + channel] = shared[0];
}

// inner = 1: block (tile of columns, part) works on a share of the rows, a warp on tile_columns neighbouring channels.
template <Activation A, typename T, typename R>
__global__ void backward_columns_kernel(const T* grad_y, const T* ref, const uint32_t* signs, const T* b, T* grad_x,
                                        R* sums, Extent extent, Parameters<R> p) {
  __shared__ R shared[tile_rows][tile_columns];
  const int64_t channel = int64_t{blockIdx.x} * tile_columns + threadIdx.x;
  const int64_t share = (extent.outer + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * share;
  const int64_t end = begin + share < extent.outer ? begin + share : extent.outer;
  R sum = 0;
  if (channel < extent.channels) {
    const R bias = b ? R(b[channel]) : R(0);
    for (int64_t row = begin + threadIdx.y; row < end; row += tile_rows) {
      const int64_t i = row * extent.channels + channel;
      const R g = backward_element<A>(R(grad_y[i]), ref_at(ref, signs, i, p), bias, p);
      grad_x[i] = T(g);
      sum += g;
    }
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && channel < extent.channels) {
    for (int row = 1; row < tile_rows; ++row) sum += shared[row][threadIdx.x];
    sums[blockIdx.y * extent.channels + channel] = sum;
  }
}

// grad_b from the parts, in their order.
template <typename T, typename R>
__global__ void sum_parts_kernel(const R* sums, T* grad_b, int64_t parts, int64_t channels) {
  const int64_t channel = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (channel >= channels) return;
  double total = 0;
  for (int64_t part = 0; part < parts; ++part) total += sums[part * channels + channel];
  grad_b[channel] = T(R(total));
}

}  // namespace fastunlearn::bias_act
