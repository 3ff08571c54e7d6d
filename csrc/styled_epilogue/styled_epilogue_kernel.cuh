// The device bodies of styled_epilogue: what upfirdn2d's kernel does with a result, the same without a filter, and
// backward the slopes with their sums, alone and with the filter's adjoint behind them.
#pragma once

#include <cuda_runtime.h>

#include "common/dtype.h"
#include "common/launch.h"
#include "styled_epilogue/styled_epilogue.h"
#include "upfirdn2d/upfirdn2d_kernel.cuh"

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

// ---- backward through the filter, in one pass ----------------------------------------------------------------------

constexpr int strip = 4;     // rows that a thread filters vertically at a time, in registers
constexpr int max_taps = 6;  // of the filters whose rows and strips fit there

// How a block of layer_threads shares tiles of rows · columns pixels of grad_x: 2^log_… threads along each direction,
// and each plane of a block has those of one depth. A block works on `share` tiles one after the other.
struct Patches {
  upfirdn2d::Filter filter;
  upfirdn2d::Axis vertical, horizontal;  // of the adjoint: y in, grad_x out
  int rows, columns, log_rows, log_columns, log_deep;
  int64_t down, across, share;
};

// Tile `index` along one axis: where it starts, where the samples start that it filters, and which samples are its own
// to count. Every sample is counted in one tile, also those that no output meets.
struct Span {
  int64_t first, source, own_begin, own_end;

  __device__ Span(const upfirdn2d::Axis& axis, int64_t index, int64_t count, int size) {
    const auto inside = [&](int64_t i) { return i < 0 ? 0 : (i < axis.in ? i : axis.in); };
    first = index * size;
    source = first - axis.pad;
    own_begin = index == 0 ? 0 : inside(source);
    own_end = index == count - 1 ? axis.in : inside(source + size);
  }
  __device__ bool owns(int64_t i) const { return own_begin <= i && i < own_end; }
  // What is read, counted from `source`: the samples that are filtered, and those that are only counted.
  __device__ int begin() const { return own_begin < source ? static_cast<int>(own_begin - source) : 0; }
  __device__ int end(int filtered) const {
    const int own = static_cast<int>(own_end - source);
    return own > filtered ? own : filtered;
  }
};

// Block (image · group of channels, part): scale · g of a tile's pixels and of their neighbours goes into shared
// memory, is filtered there, downwards in place and then across, and leaves as grad_x. But for the neighbours, y and
// grad_y are read once.
template <Activation A, typename S, typename R>
__global__ void __launch_bounds__(layer_threads, 4)
    backward_filter_kernel(const S* grad_y, const S* y, S* grad_x, Sums<R>* parts, Patches q, Layer<R> layer) {
  FASTUNLEARN_DYNAMIC_SHARED(R, shared);
  __shared__ Sums<R> totals[layer_threads];
  const upfirdn2d::Taps<R> taps(q.filter, shared);
  R* const slopes = taps.end;
  const int taps_h = q.filter.h, taps_w = q.filter.w;
  const R gain = static_cast<R>(q.filter.gain);

  const int threads_down = 1 << q.log_rows, threads_across = 1 << q.log_columns, deep = 1 << q.log_deep;
  const int thread = threadIdx.x;
  const int depth = layer.channels_last ? thread & (deep - 1) : thread >> (q.log_rows + q.log_columns);
  const int of_plane = layer.channels_last ? thread >> q.log_deep : thread & (threads_down * threads_across - 1);
  const int at_column = of_plane & (threads_across - 1), at_row = of_plane >> q.log_columns;

  const int64_t groups = (layer.channels + deep - 1) >> q.log_deep, image = blockIdx.x / groups;
  const int64_t channel = blockIdx.x % groups * deep + depth;
  const bool there = channel < layer.channels;
  const int64_t pixel_stride = layer.channels_last ? layer.channels : 1;
  const auto first_of = [&](int64_t area) {
    return layer.channels_last ? image * area * layer.channels + channel : (image * layer.channels + channel) * area;
  };
  const int64_t from = first_of(layer.area), to = first_of(q.vertical.out * q.horizontal.out);
  const R scale = there ? layer.scale_of(image, channel) : R(0);

  // The tile and what its filter reaches, as [depth, row, column] or, in channels_last, [row, column, depth].
  const int wide_rows = q.rows + taps_h - 1, wide_columns = q.columns + taps_w - 1;
  const int column_step = layer.channels_last ? deep : 1, row_step = wide_columns * column_step;
  R* const plane = slopes + (layer.channels_last ? depth : depth * wide_rows * row_step);

  Sums<R> sums{0, 0, 0};
  const int64_t tiles = q.down * q.across, first_tile = blockIdx.y * q.share;
  const int64_t last_tile = first_tile + q.share < tiles ? first_tile + q.share : tiles;
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const Span down(q.vertical, tile / q.across, q.down, q.rows),
        across(q.horizontal, tile % q.across, q.across, q.columns);

    for (int row = down.begin() + at_row; row < down.end(wide_rows); row += threads_down) {
      const int64_t source_row = down.source + row;
      for (int column = across.begin() + at_column; column < across.end(wide_columns); column += threads_across) {
        const int64_t source_column = across.source + column, pixel = source_row * layer.width + source_column;
        R slope = 0;
        if (there && source_row >= 0 && source_row < q.vertical.in && source_column >= 0 &&
            source_column < q.horizontal.in) {
          const int64_t i = from + pixel * pixel_stride;
          const R above = R(grad_y[i]), here = R(y[i]);
          slope = scale * (down.owns(source_row) && across.owns(source_column)
                               ? sums.template add<A>(above, here, layer.noise_at(image, pixel), layer.p)
                               : bias_act::backward_element<A>(above, here, R(0), layer.p));
        }
        if (row >= 0 && row < wide_rows && column >= 0 && column < wide_columns) {
          plane[row * row_step + column * column_step] = slope;
        }
      }
    }
    __syncthreads();

    // A strip is read before its rows are overwritten, and strips further down read rows further down.
    for (int top = 0; taps.separable && top < q.rows; top += strip * threads_down) {
      const int row = top + strip * at_row;
      for (int left = 0; left < wide_columns; left += threads_across) {
        const int column = left + at_column;
        R* const here = plane + row * row_step + column * column_step;
        R filtered[strip] = {};
        if (column < wide_columns) {
          FASTUNLEARN_UNROLL
          for (int j = 0; j < strip + max_taps - 1; ++j) {
            if (j >= strip + taps_h - 1 || row + j >= wide_rows) continue;
            const R value = here[j * row_step];
            FASTUNLEARN_UNROLL
            for (int k = 0; k < strip; ++k) {
              if (j - k >= 0 && j - k < taps_h) filtered[k] += taps.column[j - k] * value;
            }
          }
        }
        __syncthreads();
        FASTUNLEARN_UNROLL
        for (int k = 0; k < strip; ++k) {
          if (column < wide_columns && row + k < q.rows) here[k * row_step] = filtered[k];
        }
      }
    }
    __syncthreads();

    for (int row = at_row; row < q.rows && down.first + row < q.vertical.out; row += threads_down) {
      for (int column = at_column; column < q.columns && across.first + column < q.horizontal.out;
           column += threads_across) {
        const R* const here = plane + row * row_step + column * column_step;
        R sum = 0;
        if (taps.separable) {
          for (int k = 0; k < taps_w; ++k) sum += taps.row[k] * here[k * column_step];
        } else {
          for (int j = 0; j < taps_h; ++j) {
            for (int k = 0; k < taps_w; ++k) sum += taps.all[j * taps_w + k] * here[j * row_step + k * column_step];
          }
        }
        const int64_t pixel = (down.first + row) * q.horizontal.out + across.first + column;
        if (there) grad_x[to + pixel * pixel_stride] = static_cast<S>(sum * gain);
      }
    }
    __syncthreads();
  }

  const int place = depth * threads_down * threads_across + of_plane;
  totals[place] = sums;
  __syncthreads();
  for (int half = threads_down * threads_across / 2; half > 0; half /= 2) {
    if (of_plane < half) totals[place] = totals[place] + totals[place + half];
    __syncthreads();
  }
  if (of_plane == 0 && there) {
    const int64_t images = gridDim.x / groups;
    parts[(blockIdx.y * images + image) * layer.channels + channel] = totals[place];
  }
}

// ---- what sums become ----------------------------------------------------------------------------------------------

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
