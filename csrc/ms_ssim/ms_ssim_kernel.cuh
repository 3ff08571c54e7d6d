// The device bodies of ms_ssim. A block works on tiles of one plane in shared memory: pixels, then the means across
// them, then the means down those. Sums are made in two steps whose order the shape alone decides.
#pragma once

#include <cuda_runtime.h>

#include "common/launch.h"
#include "ms_ssim/ms_ssim.h"

namespace fastunlearn::ms_ssim {

constexpr int block_threads = 256;
constexpr int shift_samples = 8;  // along each axis

// One scale of all planes, and the tiles that they are cut into.
struct Problem {
  int64_t planes, channels, h, w, windows_h, windows_w, tiles_down, tiles_across;
  int taps, tile_h, tile_w;
  bool one_window;  // for all channels
  double c1, c2;

  __host__ __device__ int64_t tiles() const { return planes * tiles_down * tiles_across; }
};

// Where a tile lies. `row` and `column` are those of its first window or pixel.
struct Tile {
  int64_t plane, row, column;

  __device__ Tile(const Problem& p, int64_t i)
      : plane(i / p.tiles_across / p.tiles_down),
        row(i / p.tiles_across % p.tiles_down * p.tile_h),
        column(i % p.tiles_across * p.tile_w) {}
};

template <typename T>
__device__ const T* window_of(const Problem& p, const T* win, int64_t plane) {
  return p.one_window ? win : win + plane % p.channels * p.taps;
}

template <typename T>
__device__ Formula<T> formula_of(const Problem& p, const T* window, T shift) {
  double sum = 0;
  for (int k = 0; k < p.taps; ++k) sum += window[k];
  return {p.c1, p.c2, shift, sum * sum};
}

// shifts[plane]: half the mean of some values of x + y, about half their mean; 0 where that is not a number.
template <typename T>
__global__ void __launch_bounds__(block_threads)
    shift_kernel(const T* x, const T* y, T* shifts, int64_t planes, int64_t h, int64_t w) {
  const int64_t step = int64_t{gridDim.x} * block_threads;
  for (int64_t plane = int64_t{blockIdx.x} * block_threads + threadIdx.x; plane < planes; plane += step) {
    double sum = 0;
    for (int i = 0; i < shift_samples; ++i) {
      for (int j = 0; j < shift_samples; ++j) {
        const int64_t row = (2 * i + 1) * h / (2 * shift_samples), column = (2 * j + 1) * w / (2 * shift_samples);
        const int64_t at = (plane * h + row) * w + column;
        sum += static_cast<double>(x[at]) + static_cast<double>(y[at]);
      }
    }
    const T shift = static_cast<T>(sum / (2 * shift_samples * shift_samples));
    shifts[plane] = shift - shift == 0 ? shift : T(0);
  }
}

// Means of 2 × 2 pixels of both images; what an odd size lacks before its first row and column is zero.
template <typename T>
__global__ void __launch_bounds__(block_threads)
    halve_kernel(const T* x, const T* y, T* half_x, T* half_y, int64_t planes, int64_t h, int64_t w) {
  const int64_t out_h = halved(h), out_w = halved(w), n = planes * out_h * out_w;
  const int64_t step = int64_t{gridDim.x} * block_threads;
  for (int64_t i = int64_t{blockIdx.x} * block_threads + threadIdx.x; i < n; i += step) {
    const int64_t plane = i / out_w / out_h, row = 2 * (i / out_w % out_h) - h % 2, column = 2 * (i % out_w) - w % 2;
    T sum_x = 0, sum_y = 0;
    for (int64_t r = row < 0 ? 0 : row; r < row + 2; ++r) {
      for (int64_t c = column < 0 ? 0 : column; c < column + 2; ++c) {
        sum_x += x[(plane * h + r) * w + c];
        sum_y += y[(plane * h + r) * w + c];
      }
    }
    half_x[i] = T(0.25) * sum_x;
    half_y[i] = T(0.25) * sum_y;
  }
}

// Shared memory of the means of one tile of windows, in elements; the taps come first.
__host__ __device__ inline int64_t elements_for_means(int64_t taps, int64_t tile_h, int64_t tile_w) {
  const int64_t rows = tile_h + taps - 1;
  return taps + 2 * rows * (tile_w + taps - 1) + 4 * rows * tile_w;
}

// Shared memory of one tile of gradients.
__host__ __device__ inline int64_t elements_for_gradients(int64_t taps, int64_t tile_h, int64_t tile_w) {
  const int64_t rows = tile_h + taps - 1;
  return taps + 4 * rows * (tile_w + taps - 1) + 4 * rows * tile_w;
}

// Calls body(row, column, means) for every window of the tile, each in one thread. All threads of the block call it.
template <typename T, typename Body>
__device__ void for_windows(const Problem& p, const Tile& tile, const T* x, const T* y, const T* window, T shift,
                            T* shared, const Body& body) {
  const int rows = p.tile_h + p.taps - 1, columns = p.tile_w + p.taps - 1;
  T *const taps = shared, *const a = taps + p.taps, *const b = a + rows * columns, *const across = b + rows * columns;
  const T *const image_x = x + tile.plane * p.h * p.w, *const image_y = y + tile.plane * p.h * p.w;
  for (int k = threadIdx.x; k < p.taps; k += block_threads) taps[k] = window[k];
  for (int i = threadIdx.x; i < rows * columns; i += block_threads) {
    const int64_t row = tile.row + i / columns, column = tile.column + i % columns;
    const bool inside = row < p.h && column < p.w;
    const T here_x = inside ? image_x[row * p.w + column] : shift,
            here_y = inside ? image_y[row * p.w + column] : shift;
    a[i] = (here_x - shift) + (here_y - shift);
    b[i] = here_x - here_y;
  }
  __syncthreads();
  const int in_tile = rows * p.tile_w;
  for (int i = threadIdx.x; i < in_tile; i += block_threads) {
    const T *const from_a = a + i / p.tile_w * columns + i % p.tile_w, *const from_b = from_a + rows * columns;
    Means<T> m{0, 0, 0, 0};
    for (int k = 0; k < p.taps; ++k) {
      const T part_a = taps[k] * from_a[k], part_b = taps[k] * from_b[k];
      m.a += part_a;
      m.aa += part_a * from_a[k];
      m.b += part_b;
      m.bb += part_b * from_b[k];
    }
    across[i] = m.a;
    across[in_tile + i] = m.aa;
    across[2 * in_tile + i] = m.b;
    across[3 * in_tile + i] = m.bb;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p.tile_h * p.tile_w; i += block_threads) {
    const int64_t row = tile.row + i / p.tile_w, column = tile.column + i % p.tile_w;
    if (row >= p.windows_h || column >= p.windows_w) continue;
    Means<T> m{0, 0, 0, 0};
    for (int k = 0; k < p.taps; ++k) {
      const T* const from = across + i + k * p.tile_w;
      m.a += taps[k] * from[0];
      m.aa += taps[k] * from[in_tile];
      m.b += taps[k] * from[2 * in_tile];
      m.bb += taps[k] * from[3 * in_tile];
    }
    body(row, column, m);
  }
  __syncthreads();
}

// sums[tile] = Σ over its windows of 1 − cs, or of 1 − l · cs.
template <bool Luminance, typename T>
__global__ void __launch_bounds__(block_threads)
    losses_kernel(const T* x, const T* y, const T* win, const T* shifts, double* sums, Problem p) {
  FASTUNLEARN_DYNAMIC_SHARED(T, shared);
  __shared__ double parts[block_threads];
  for (int64_t i = blockIdx.x; i < p.tiles(); i += gridDim.x) {
    const Tile tile(p, i);
    const T *const window = window_of(p, win, tile.plane), shift = shifts[tile.plane];
    const Formula<T> f = formula_of(p, window, shift);
    double sum = 0;
    for_windows(p, tile, x, y, window, shift, shared,
                [&](int64_t, int64_t, const Means<T>& m) { sum += static_cast<double>(loss<Luminance>(m, f)); });
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int half = block_threads / 2; half > 0; half /= 2) {
      if (static_cast<int>(threadIdx.x) < half) parts[threadIdx.x] += parts[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) sums[i] = parts[0];
    __syncthreads();
  }
}

// values[plane] from the sums of its tiles, in their order.
template <typename T>
__global__ void __launch_bounds__(block_threads) values_kernel(const double* sums, T* values, Problem p) {
  const int64_t step = int64_t{gridDim.x} * block_threads, tiles = p.tiles_down * p.tiles_across;
  for (int64_t plane = int64_t{blockIdx.x} * block_threads + threadIdx.x; plane < p.planes; plane += step) {
    double sum = 0;
    for (int64_t i = 0; i < tiles; ++i) sum += sums[plane * tiles + i];
    values[plane] = static_cast<T>(1 - sum / static_cast<double>(p.windows_h * p.windows_w));
  }
}

// The slopes of every window: images by_x, by_aa, by_bb and, for BothImages, by_y, `size` elements from one another.
template <bool Luminance, bool BothImages, typename T>
__global__ void __launch_bounds__(block_threads)
    slopes_kernel(const T* x, const T* y, const T* win, const T* shifts, T* out, int64_t size, Problem p) {
  FASTUNLEARN_DYNAMIC_SHARED(T, shared);
  for (int64_t i = blockIdx.x; i < p.tiles(); i += gridDim.x) {
    const Tile tile(p, i);
    const T *const window = window_of(p, win, tile.plane), shift = shifts[tile.plane];
    const Formula<T> f = formula_of(p, window, shift);
    for_windows(p, tile, x, y, window, shift, shared, [&](int64_t row, int64_t column, const Means<T>& m) {
      const Slopes<T> s = slopes<Luminance>(m, f);
      T* const to = out + (tile.plane * p.windows_h + row) * p.windows_w + column;
      to[0] = s.x;
      to[size] = s.aa;
      to[2 * size] = s.bb;
      if (BothImages) to[3 * size] = s.y;
    });
  }
}

// Gradients from filtered slopes, and a quarter of those of the scale below (null at the last). Tiles are of pixels.
template <bool BothImages, typename T>
__global__ void __launch_bounds__(block_threads)
    gradients_kernel(const T* grad, const T* x, const T* y, const T* win, const T* shifts, const T* by, int64_t size,
                     const T* below_x, const T* below_y, T* grad_x, T* grad_y, Problem p) {
  FASTUNLEARN_DYNAMIC_SHARED(T, shared);
  constexpr int filtered = BothImages ? 4 : 3;
  const int margin = p.taps - 1, rows = p.tile_h + margin, columns = p.tile_w + margin, in_tile = rows * p.tile_w;
  T *const taps = shared, *const values = taps + p.taps, *const across = values + 4 * rows * columns;
  for (int64_t i = blockIdx.x; i < p.tiles(); i += gridDim.x) {
    const Tile tile(p, i);
    const T* const window = window_of(p, win, tile.plane);
    for (int k = threadIdx.x; k < p.taps; k += block_threads) taps[k] = window[margin - k];
    for (int j = threadIdx.x; j < rows * columns; j += block_threads) {
      const int64_t row = tile.row - margin + j / columns, column = tile.column - margin + j % columns;
      const bool inside = row >= 0 && column >= 0 && row < p.windows_h && column < p.windows_w;
      const int64_t from = (tile.plane * p.windows_h + row) * p.windows_w + column;
      for (int n = 0; n < filtered; ++n) values[n * rows * columns + j] = inside ? by[n * size + from] : T(0);
    }
    __syncthreads();
    for (int j = threadIdx.x; j < filtered * in_tile; j += block_threads) {
      const T* const from = values + j / p.tile_w * columns + j % p.tile_w;
      T sum = 0;
      for (int k = 0; k < p.taps; ++k) sum += taps[k] * from[k];
      across[j] = sum;
    }
    __syncthreads();
    const T shift = shifts[tile.plane];
    const T factor =
        static_cast<T>(static_cast<double>(grad[tile.plane]) / static_cast<double>(p.windows_h * p.windows_w));
    for (int j = threadIdx.x; j < p.tile_h * p.tile_w; j += block_threads) {
      const int64_t row = tile.row + j / p.tile_w, column = tile.column + j % p.tile_w;
      if (row >= p.h || column >= p.w) continue;
      T sums[4] = {0, 0, 0, 0};
      for (int k = 0; k < p.taps; ++k) {
        for (int n = 0; n < filtered; ++n) sums[n] += taps[k] * across[n * in_tile + j + k * p.tile_w];
      }
      const int64_t at = (tile.plane * p.h + row) * p.w + column;
      const int64_t below = (tile.plane * halved(p.h) + (row + p.h % 2) / 2) * halved(p.w) + (column + p.w % 2) / 2;
      const T a = 2 * ((x[at] - shift) + (y[at] - shift)) * sums[1], b = 2 * (x[at] - y[at]) * sums[2];
      grad_x[at] = factor * (sums[0] + (a + b)) + (below_x ? T(0.25) * below_x[below] : T(0));
      if (BothImages) grad_y[at] = factor * (sums[3] + (a - b)) + (below_y ? T(0.25) * below_y[below] : T(0));
    }
    __syncthreads();
  }
}

}  // namespace fastunlearn::ms_ssim
