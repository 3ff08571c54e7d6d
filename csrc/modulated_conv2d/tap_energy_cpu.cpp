// tap_energy on the CPU: q[o, i] = Σ_k w[o, i, k]², one pass over the weight.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "common/checks.h"
#include "common/dtype.h"
#include "common/launch.h"
#include "common/vectors.h"

namespace fastunlearn::modulated_conv2d {
namespace {

template <typename T>
INLINE void sums_of_squares(const T* w, int64_t taps, T* q, int64_t n) {
  for (int64_t i = 0; i < n; ++i, w += taps) {
    T sum = 0;
    for (int64_t k = 0; k < taps; ++k) sum += w[k] * w[k];
    q[i] = sum;
  }
}

template <typename T>
FASTUNLEARN_CLONES void energies(const T* w, int64_t taps, T* q, int64_t n) {
  // A number that the compiler knows: its loop is unrolled.
  taps == 9 ? sums_of_squares(w, 9, q, n) : sums_of_squares(w, taps, q, n);
}

Tensor tap_energy_cpu(const Tensor& weight) {
  const int64_t dim = weight.dim();
  STD_TORCH_CHECK(dim >= 2 && weight.is_contiguous(), "tap_energy: weight must be contiguous, [..., kh, kw]");
  const ScalarType dtype = weight.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "tap_energy: weight must be float32 or float64");
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d + 2 < dim; ++d) sizes.push_back(weight.size(d));
  const Tensor q = torch::stable::new_empty(weight, sizes);
  const int64_t taps = weight.size(dim - 2) * weight.size(dim - 1);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const T* w = static_cast<const T*>(weight.const_data_ptr());
    T* result = static_cast<T*>(q.mutable_data_ptr());
    parallel_range(q.numel(), taps,
                   [&](int64_t begin, int64_t end) { energies(w + begin * taps, taps, result + begin, end - begin); });
  };
  dtype == ScalarType::Double ? run(double{}) : run(float{});
  return q;
}

}  // namespace
}  // namespace fastunlearn::modulated_conv2d

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("tap_energy", TORCH_BOX(&fastunlearn::modulated_conv2d::tap_energy_cpu));
}
