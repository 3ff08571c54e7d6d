// What stands between the matrix products of matrix_sqrt's iteration, on the CPU: P becomes T = I + (I − P)/2 and
// ‖I − P‖² is summed, in one pass.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/dtype.h"
#include "common/launch.h"

namespace fastunlearn::matrix_sqrt {
namespace {

using torch::stable::Tensor;

constexpr const char* op = "newton_schulz_";

// Independent sums in a fixed order: what the compiler turns into vectors.
constexpr int lane_count = 16;

// A part of a row that does not meet the diagonal, where I − P is −P.
template <typename T>
FASTUNLEARN_CLONES static double halve(T* p, int64_t n) {
  double lanes[lane_count] = {};
  const auto element = [&](int64_t i, double& sum) __attribute__((always_inline)) {
    const T off = -p[i];
    p[i] = off / 2;
    sum += double(off) * double(off);
  };
  const int64_t whole = n / lane_count * lane_count;
  for (int64_t i = 0; i < whole; i += lane_count) {
    for (int lane = 0; lane < lane_count; ++lane) element(i + lane, lanes[lane]);
  }
  for (int64_t i = whole; i < n; ++i) element(i, lanes[i - whole]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// Row by row: the sums do not depend on where threads cut the rows.
template <typename T>
void run(T* product, double* squares, int64_t matrices, int64_t side) {
  std::vector<double> of_rows(matrices * side);
  parallel_range(matrices * side, side, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t diagonal = row % side;
      T* const p = product + row * side;
      const T off = 1 - p[diagonal];
      const double before = halve(p, diagonal), behind = halve(p + diagonal + 1, side - diagonal - 1);
      p[diagonal] = 1 + off / 2;
      of_rows[row] = before + double(off) * double(off) + behind;
    }
  });
  for (int64_t matrix = 0; matrix < matrices; ++matrix) {
    double sum = 0;
    for (int64_t row = matrix * side; row < (matrix + 1) * side; ++row) sum += of_rows[row];
    squares[matrix] = sum;
  }
}

Tensor newton_schulz_cpu(Tensor product) {
  const int64_t dims = product.dim();
  STD_TORCH_CHECK(dims >= 2 && product.size(dims - 1) == product.size(dims - 2) && product.is_contiguous(), op,
                  ": product must be [..., d, d] and contiguous");
  const auto batch = product.sizes().slice(0, dims - 2);
  const Tensor squares = torch::stable::new_empty(product, batch, ScalarType::Double);
  const int64_t matrices = squares.numel(), side = product.size(dims - 1);
  dispatch_floating(product.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<T>) {
      run(static_cast<T*>(product.mutable_data_ptr()), static_cast<double*>(squares.mutable_data_ptr()), matrices,
          side);
    } else {
      STD_TORCH_CHECK(false, op, ": product must be float32 or float64");
    }
  });
  return squares;
}

}  // namespace
}  // namespace fastunlearn::matrix_sqrt

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("newton_schulz_", TORCH_BOX(&fastunlearn::matrix_sqrt::newton_schulz_cpu));
}
