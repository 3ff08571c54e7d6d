// The device body of upfirdn2d. A block computes tiles of rows · columns · channels output pixels. A separable filter
// runs as a vertical pass into shared memory and a horizontal pass out of it, any other straight from the image.
#pragma once

#include <cuda_runtime.h>

#include "common/dtype.h"
#include "common/launch.h"
#include "upfirdn2d/upfirdn2d.h"

namespace fastunlearn::upfirdn2d {

constexpr int block_threads = 256;

// Strides in elements.
struct Image {
  int64_t image, channel, row, column;
};

struct Filter {
  const void* taps;
  int64_t stride_h, stride_w;
  int h, w;
  bool one_dimensional, is_double, flip;
  double gain;

  template <typename T>
  __device__ T tap(int i, int j) const {
    const int64_t offset = (flip ? i : h - 1 - i) * stride_h + (flip ? j : w - 1 - j) * stride_w;
    return static_cast<T>(is_double ? static_cast<const double*>(taps)[offset]
                                    : static_cast<const float*>(taps)[offset]);
  }
};

struct Tiling {
  int rows, columns, channels;
  int samples;  // of a row, enough for any tile
  int64_t down, across, deep;
  bool channels_fastest;
};

struct Problem {
  Axis vertical, horizontal;
  int64_t images, channels;
  Image x, y;
  Filter filter;
  Tiling tiles;
};

// `reach` of the output d behind the one with reach `origin`, its source counted from there: no 64-bit division.
struct Near {
  int first_tap, source, count;

  __device__ Near(const Axis& axis, int origin_first_tap, int d) {
    const int up = static_cast<int>(axis.up), start = d * static_cast<int>(axis.down) - origin_first_tap;
    const int taps = static_cast<int>(axis.taps);
    source = ceil_div(start, up);
    first_tap = source * up - start;
    count = first_tap < taps ? ceil_div(taps - first_tap, up) : 0;
  }
};

// Element i of a tile of `rows` rows of `width`, in the order in which neighbours lie together in memory.
struct Place {
  int channel, row, column;

  __device__ Place(const Tiling& tiles, int i, int width) {
    if (tiles.channels_fastest) {
      channel = i % tiles.channels;
      column = i / tiles.channels % width;
      row = i / tiles.channels / width;
    } else {
      column = i % width;
      row = i / width % tiles.rows;
      channel = i / width / tiles.rows;
    }
  }
};

template <typename T>
__device__ T magnitude(T value) {
  return value < 0 ? -value : value;
}

// Splits an outer product into column · row and returns true, or returns false. Every product must meet its tap to
// within a few roundings, as on the CPU.
template <typename T>
__device__ bool factor(const T* taps, T* column, T* row, int h, int w) {
  constexpr T tolerance = 8 * (sizeof(T) == sizeof(double) ? T(2.220446049250313e-16) : T(1.1920929e-7f));
  int pivot = 0;
  for (int i = 1; i < h * w; ++i) {
    if (magnitude(taps[i]) > magnitude(taps[pivot])) pivot = i;
  }
  const T scale = taps[pivot] == 0 ? T(1) : taps[pivot];
  for (int i = threadIdx.x; i < h; i += block_threads) column[i] = taps[i * w + pivot % w];
  for (int j = threadIdx.x; j < w; j += block_threads) row[j] = taps[pivot / w * w + j] / scale;
  __syncthreads();
  int misses = 0;
  for (int i = threadIdx.x; i < h * w; i += block_threads) {
    misses |= !(magnitude(column[i / w] * row[i % w] - taps[i]) <= tolerance * magnitude(taps[i]));
  }
  return !__syncthreads_or(misses);
}

// A filter in shared memory, from `begin` to `end`: as column · row if it is separable, else `all` of it. All threads
// of a block of block_threads make one together.
template <typename T>
struct Taps {
  T *column, *row, *all, *end;
  bool separable;

  __device__ Taps(const Filter& filter, T* begin)
      : column(begin),
        row(column + filter.h),
        all(row + filter.w),
        end(filter.one_dimensional ? all : all + filter.h * filter.w),
        separable(true) {
    if (filter.one_dimensional) {
      for (int i = threadIdx.x; i < filter.w; i += block_threads) column[i] = row[i] = filter.tap<T>(0, i);
      __syncthreads();
    } else {
      for (int i = threadIdx.x; i < filter.h * filter.w; i += block_threads) {
        all[i] = filter.tap<T>(i / filter.w, i % filter.w);
      }
      __syncthreads();
      separable = factor(all, column, row, filter.h, filter.w);
    }
  }
};

// What becomes of a result before it is stored; this one is upfirdn2d's own.
struct Unchanged {
  template <typename T>
  __device__ T operator()(T value, int64_t, int64_t, int64_t, int64_t) const {
    return value;
  }
};

// finish(value, image, channel, row, column) is stored.
template <typename S, typename T, typename Finish>
__global__ void __launch_bounds__(block_threads) upfirdn2d_kernel(const S* x, S* y, Problem p, Finish finish) {
  FASTUNLEARN_DYNAMIC_SHARED(T, shared);
  const Filter& filter = p.filter;
  const Tiling& tiles = p.tiles;
  const Taps<T> taps(filter, shared);
  const bool separable = taps.separable;
  T* const middle = taps.end;

  const T gain = static_cast<T>(filter.gain);
  const int in_tile = tiles.rows * tiles.columns * tiles.channels,
            in_middle = tiles.rows * tiles.samples * tiles.channels;
  const int64_t count = p.images * tiles.deep * tiles.down * tiles.across;
  for (int64_t tile = blockIdx.x; tile < count; tile += gridDim.x) {
    const int64_t first_column = tile % tiles.across * tiles.columns;
    const int64_t first_row = tile / tiles.across % tiles.down * tiles.rows;
    const int64_t first_channel = tile / tiles.across / tiles.down % tiles.deep * tiles.channels;
    const int64_t image = tile / tiles.across / tiles.down / tiles.deep;
    const Reach top = reach(p.vertical, first_row), left = reach(p.horizontal, first_column);
    const S* const from = x + image * p.x.image + first_channel * p.x.channel;
    S* const to = y + image * p.y.image + first_channel * p.y.channel;

    if (separable) {
      for (int i = threadIdx.x; i < in_middle; i += block_threads) {
        const Place at(tiles, i, tiles.samples);
        const int64_t sample = left.source + at.column;
        T sum = 0;
        if (first_channel + at.channel < p.channels && first_row + at.row < p.vertical.out && sample >= 0 &&
            sample < p.horizontal.in) {
          const Near near(p.vertical, static_cast<int>(top.first_tap), at.row);
          const S* const here = from + at.channel * p.x.channel + sample * p.x.column;
          for (int k = 0; k < near.count; ++k) {
            const int64_t line = top.source + near.source + k;
            if (line < 0 || line >= p.vertical.in) continue;
            sum += taps.column[near.first_tap + k * static_cast<int>(p.vertical.up)] *
                   static_cast<T>(here[line * p.x.row]);
          }
        }
        middle[i] = sum;
      }
      __syncthreads();
    }

    for (int i = threadIdx.x; i < in_tile; i += block_threads) {
      const Place at(tiles, i, tiles.columns);
      const int64_t channel = first_channel + at.channel, out_y = first_row + at.row, out_x = first_column + at.column;
      if (channel >= p.channels || out_y >= p.vertical.out || out_x >= p.horizontal.out) continue;
      const Near across(p.horizontal, static_cast<int>(left.first_tap), at.column);
      const int up_x = static_cast<int>(p.horizontal.up), up_y = static_cast<int>(p.vertical.up);
      T sum = 0;
      if (separable) {
        const int step = tiles.channels_fastest ? tiles.channels : 1;
        const T* const here =
            middle + (tiles.channels_fastest ? (at.row * tiles.samples + across.source) * tiles.channels + at.channel
                                             : (at.channel * tiles.rows + at.row) * tiles.samples + across.source);
        for (int k = 0; k < across.count; ++k) sum += taps.row[across.first_tap + k * up_x] * here[k * step];
      } else {
        const Near along(p.vertical, static_cast<int>(top.first_tap), at.row);
        const S* const here = from + at.channel * p.x.channel;
        for (int m = 0; m < along.count; ++m) {
          const int64_t line = top.source + along.source + m;
          if (line < 0 || line >= p.vertical.in) continue;
          const T* const weights = taps.all + (along.first_tap + m * up_y) * filter.w;
          for (int k = 0; k < across.count; ++k) {
            const int64_t sample = left.source + across.source + k;
            if (sample < 0 || sample >= p.horizontal.in) continue;
            sum += weights[across.first_tap + k * up_x] * static_cast<T>(here[line * p.x.row + sample * p.x.column]);
          }
        }
      }
      to[at.channel * p.y.channel + out_y * p.y.row + out_x * p.y.column] =
          static_cast<S>(finish(sum * gain, image, channel, out_y, out_x));
    }
    __syncthreads();
  }
}

}  // namespace fastunlearn::upfirdn2d
