// Matrix products out of blocks of the result that stay in registers.
#pragma once

#include <cstdint>

#include "common/vectors.h"

namespace fastunlearn::conv2d {

// The right factor is kept in panels of this many columns, one row of a panel behind the other.
template <typename T>
constexpr int64_t panel_width = 256 / sizeof(T);

namespace {

// A block of the result has as many rows, and vectors of columns, as leave room for one row of the right factor and one
// number of the left: of 32 registers of 64 bytes, or of 16 smaller ones.
constexpr int block_rows = 6;
template <int bytes>
constexpr int block_vectors = bytes == 64 ? 4 : 2;

// result[r, :] (+)= Σ_d left[r, d] · right[d, :], for R rows and C vectors of columns.
template <int bytes, int R, int C, typename T>
INLINE void block_product(const T* left, int64_t left_row, int64_t left_step, const T* right, T* result,
                          int64_t result_row, int64_t depth, bool add) {
  constexpr int V = bytes / sizeof(T);
  Vector<T, V> sums[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) sums[r][c] = add ? load<V>(result + r * result_row + c * V) : Vector<T, V>{};
  }
  for (int64_t d = 0; d < depth; ++d, left += left_step, right += panel_width<T>) {
    Vector<T, V> row[C];
    for (int c = 0; c < C; ++c) row[c] = load<V>(right + c * V);
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) sums[r][c] += left[r * left_row] * row[c];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) store<V, false>(result + r * result_row + c * V, sums[r][c]);
  }
}

// Any number of rows: blocks of R, then one of what is left.
template <int bytes, int R, int C, typename T>
INLINE void rows_product(const T* left, int64_t left_row, int64_t left_step, const T* right, T* result,
                         int64_t result_row, int64_t rows, int64_t depth, bool add) {
  for (; rows >= R; rows -= R, left += R * left_row, result += R * result_row) {
    block_product<bytes, R, C>(left, left_row, left_step, right, result, result_row, depth, add);
  }
  if constexpr (R > 1) {
    if (rows == 0) return;
    rows_product<bytes, R - 1, C>(left, left_row, left_step, right, result, result_row, rows, depth, add);
  }
}

// Up to C vectors of columns.
template <int bytes, int C, typename T>
INLINE void columns_product(const T* left, int64_t left_row, int64_t left_step, const T* right, T* result,
                            int64_t result_row, int64_t rows, int64_t vectors, int64_t depth, bool add) {
  if (vectors >= C) {
    rows_product<bytes, block_rows, C>(left, left_row, left_step, right, result, result_row, rows, depth, add);
  } else if constexpr (C > 1) {
    columns_product<bytes, C - 1>(left, left_row, left_step, right, result, result_row, rows, vectors, depth, add);
  }
}

// One panel: result[rows, columns] (+)= left[rows, depth] · right[depth, columns]. Numbers of `left` are left_row and
// left_step apart. Columns are counted up to whole registers, in `right` and in `result`.
template <int bytes, typename T>
INLINE void panel_product(const T* left, int64_t left_row, int64_t left_step, const T* right, T* result,
                          int64_t result_row, int64_t rows, int64_t columns, int64_t depth, bool add) {
  constexpr int V = bytes / sizeof(T), C = block_vectors<bytes>;
  for (; columns > 0; columns -= C * V, right += C * V, result += C * V) {
    columns_product<bytes, C>(left, left_row, left_step, right, result, result_row, rows, (columns + V - 1) / V, depth,
                              add);
  }
}
#define PRODUCT(bytes, T)                                                                                         \
  void product(const T* left, int64_t left_row, int64_t left_step, const T* right, T* result, int64_t result_row, \
               int64_t rows, int64_t columns, int64_t depth, bool add) {                                          \
    panel_product<bytes>(left, left_row, left_step, right, result, result_row, rows, columns, depth, add);        \
  }
#define PRODUCT_FLOAT(bytes) PRODUCT(bytes, float)
#define PRODUCT_DOUBLE(bytes) PRODUCT(bytes, double)
FOR_EACH_TARGET(PRODUCT_FLOAT)
FOR_EACH_TARGET(PRODUCT_DOUBLE)

}  // namespace
}  // namespace fastunlearn::conv2d
