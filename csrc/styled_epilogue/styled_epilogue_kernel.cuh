// The device bodies of styled_epilogue: what upfirdn2d's kernel does with a result, the same without a filter, and
// backward the slopes with their sums.
#pragma once

#include <cuda_runtime.h>

#include "common/dtype.h"
#include "styled_epilogue/styled_epilogue.h"

namespace fastunlearn::styled_epilogue {

constexpr int layer_threads = 256;
constexpr int tile_columns = 32, tile_rows = 8;  // one warp a row of the tile, its lanes on neighbouring channels

// The tensors beside x, in the kernel's arithmetic; null where absent. Sizes are those of y.
template <typename R>
struct Layer {
  const R *scale, *noise, *strength, *b;
  int64_t noise_stride, channels, width, area;
  bool channels_last;
  Parameters<R> p;

  __device__ R scale_of(int64_t image, int64_t channel) const {
    return scale ? scale[image * channels + channel] : R(1);
  }
  __device__ R noise_at(int64_t image, int64_t pixel) const {
    return noise ? noise[image * noise_stride + pixel] : R(0);
  }
  template <Activation A>
  __device__ R forward(R v, int64_t image, int64_t channel, int64_t pixel) const {
    const R shift = noise ? *strength * noise_at(image, pixel) : R(0);
    return bias_act::forward_element<A>(scale_of(image, channel) * v + shift, b ? b[channel] : R(0), p);
  }
};

// For upfirdn2d's kernel.
template <Activation A, typename R>
struct Finish {
  Layer<R> layer;
  __device__ R operator()(R value, int64_t image, int64_t channel, int64_t row, int64_t column) const {
    return layer.template forward<A>(value, image, channel, row * layer.width + column);
  }
};

// Without a filter. Division by 64-bit numbers is slow and seldom needed: Index is 32 bits wide where that is enough.
template <Activation A, typename S, typename R, typename Index>
__global__ void forward_kernel(const S* x, S* y, int64_t numel, Layer<R> layer) {
  const Index n = static_cast<Index>(numel), area = static_cast<Index>(layer.area);
  const Index channels = static_cast<Index>(layer.channels), stride = Index{gridDim.x} * blockDim.x;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) {
    const Index outer = layer.channels_last ? i / channels : i / area;
    const Index channel = layer.channels_last ? i % channels : outer % channels;
    const Index image = layer.channels_last ? outer / area : outer / channels;
    const Index pixel = layer.channels_last ? outer % area : i % area;
    y[i] = static_cast<S>(layer.template forward<A>(static_cast<R>(x[i]), image, channel, pixel));
    if (n - i <= stride) break;  // i + stride might not fit
  }
}

// Sums of one thread.
template <typename R>
struct Sums {
  R of_g, of_g_noise, of_g_u;

  template <Activation A>
  __device__ R add(R grad_y, R y, R noise, const Parameters<R>& p) {
    const R g = bias_act::backward_element<A>(grad_y, y, R(0), p);
    of_g += g;
    of_g_noise += g * noise;
    of_g_u += gradient_times_input(grad_y, y, p);
    return g;
  }
  __device__ Sums operator+(const Sums& other) const {
    return {of_g + other.of_g, of_g_noise + other.of_g_noise, of_g_u + other.of_g_u};
  }
};

// NCHW: block (plane, part) writes scale · g for a share of a plane's pixels, and their sums.
template <Activation A, typename S, typename R>
__global__ void backward_planes_kernel(const S* grad_y, const S* y, S* out, Sums<R>* parts, Layer<R> layer) {
  __shared__ Sums<R> shared[layer_threads];
  const int64_t plane = blockIdx.x, image = plane / layer.channels, channel = plane % layer.channels;
  const int64_t share = (layer.area + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * share;
  const int64_t end = begin + share < layer.area ? begin + share : layer.area;
  const R scale = layer.scale_of(image, channel);
  Sums<R> sums{0, 0, 0};
  for (int64_t pixel = begin + threadIdx.x; pixel < end; pixel += layer_threads) {
    const int64_t i = plane * layer.area + pixel;
    out[i] = S(scale * sums.template add<A>(R(grad_y[i]), R(y[i]), layer.noise_at(image, pixel), layer.p));
  }
  shared[threadIdx.x] = sums;
  __syncthreads();
  for (unsigned half = layer_threads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] = shared[threadIdx.x] + shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) parts[blockIdx.y * int64_t{gridDim.x} + plane] = shared[0];
}

// channels_last: block (image · tile of channels, part) does so for a share of an image's pixels.
template <Activation A, typename S, typename R>
__global__ void backward_pixels_kernel(const S* grad_y, const S* y, S* out, Sums<R>* parts, int64_t images,
                                       Layer<R> layer) {
  __shared__ Sums<R> shared[tile_rows][tile_columns];
  const int64_t tiles = (layer.channels + tile_columns - 1) / tile_columns, image = blockIdx.x / tiles;
  const int64_t channel = blockIdx.x % tiles * tile_columns + threadIdx.x;
  const int64_t share = (layer.area + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * share;
  const int64_t end = begin + share < layer.area ? begin + share : layer.area;
  Sums<R> sums{0, 0, 0};
  if (channel < layer.channels) {
    const R scale = layer.scale_of(image, channel);
    for (int64_t pixel = begin + threadIdx.y; pixel < end; pixel += tile_rows) {
      const int64_t i = (image * layer.area + pixel) * layer.channels + channel;
      out[i] = S(scale * sums.template add<A>(R(grad_y[i]), R(y[i]), layer.noise_at(image, pixel), layer.p));
    }
  }
  shared[threadIdx.y][threadIdx.x] = sums;
  __syncthreads();
  if (threadIdx.y == 0 && channel < layer.channels) {
    for (int row = 1; row < tile_rows; ++row) sums = sums + shared[row][threadIdx.x];
    parts[(blockIdx.y * images + image) * layer.channels + channel] = sums;
  }
}

// The parts of each sample's channels, in their order: grad_scale, unless null, and what the next kernel adds up.
template <typename R>
__global__ void finish_scale_kernel(const Sums<R>* parts, int64_t count, int64_t planes, R* grad_scale, double* of_g,
                                    double* of_g_noise, Layer<R> layer) {
  const int64_t plane = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (plane >= planes) return;
  double g = 0, g_noise = 0, g_u = 0;
  for (int64_t part = 0; part < count; ++part) {
    const Sums<R>& sums = parts[part * planes + plane];
    g += sums.of_g;
    g_noise += sums.of_g_noise;
    g_u += sums.of_g_u;
  }
  of_g[plane] = g;
  of_g_noise[plane] = g_noise;
  if (grad_scale) {
    const double strength = layer.noise ? double(*layer.strength) : 0,
                 b = layer.b ? double(layer.b[plane % layer.channels]) : 0;
    grad_scale[plane] =
        R(styled_epilogue::grad_scale<double>(g, g_noise, g_u, strength, b, double(layer.scale[plane])));
  }
}

// One block: grad_b and grad_strength, unless null.
template <typename R>
__global__ void finish_rest_kernel(const double* of_g, const double* of_g_noise, int64_t images, int64_t channels,
                                   R* grad_b, R* grad_strength) {
  __shared__ double shared[layer_threads];
  for (int64_t channel = threadIdx.x; grad_b && channel < channels; channel += layer_threads) {
    double sum = 0;
    for (int64_t image = 0; image < images; ++image) sum += of_g[image * channels + channel];
    grad_b[channel] = R(sum);
  }
  double sum = 0;
  for (int64_t i = threadIdx.x; i < images * channels; i += layer_threads) sum += of_g_noise[i];
  shared[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned half = layer_threads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0 && grad_strength) *grad_strength = R(shared[0]);
}

}  // namespace fastunlearn::styled_epilogue
