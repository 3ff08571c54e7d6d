// bias_act on the CPU: one pass over memory forward, one backward that also sums the bias gradient.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "bias_act/bias_act_arguments.h"
#include "common/launch.h"

namespace fastunlearn::bias_act {
namespace {

// Partial sums of a row, so that the compiler can add in vectors without changing the order of any sum.
constexpr int lanes = 16;

// Memory elements [begin, end) of [outer, channels, inner], inner > 1: along a row the bias is one number.
template <Activation A, typename T, typename R>
FASTUNLEARN_CLONES void forward_rows(const T* x, const T* b, T* y, int64_t begin, int64_t end, Extent extent,
                                     Parameters<R> p) {
  for (int64_t row = begin / extent.inner; begin < end; ++row) {
    const int64_t row_end = std::min(end, (row + 1) * extent.inner);
    const R bias = b ? R(b[row % extent.channels]) : R(0);
    for (; begin < row_end; ++begin) y[begin] = T(forward_element<A>(R(x[begin]), bias, p));
  }
}

// The same for inner = 1: a row holds every channel once.
template <Activation A, typename T, typename R>
FASTUNLEARN_CLONES void forward_columns(const T* x, const T* b, T* y, int64_t begin, int64_t end, int64_t channels,
                                        Parameters<R> p) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t i = row * channels + c;
      y[i] = T(forward_element<A>(R(x[i]), R(b[c]), p));
    }
  }
}

// Memory elements [begin, end); `sums`, unless null, gets the sum of every row, and the range is whole rows then.
template <Activation A, typename T, typename R>
FASTUNLEARN_CLONES void backward_rows(const T* grad_y, const T* ref, const T* b, T* grad_x, R* sums, int64_t begin,
                                      int64_t end, Extent extent, Parameters<R> p) {
  for (int64_t row = begin / extent.inner; begin < end; ++row) {
    const int64_t row_end = std::min(end, (row + 1) * extent.inner);
    const R bias = b ? R(b[row % extent.channels]) : R(0);
    R sum[lanes] = {};
    for (; begin + lanes <= row_end; begin += lanes) {
      for (int lane = 0; lane < lanes; ++lane) {
        const R g = backward_element<A>(R(grad_y[begin + lane]), R(ref[begin + lane]), bias, p);
        grad_x[begin + lane] = T(g);
        sum[lane] += g;
      }
    }
    for (int lane = 0; begin < row_end; ++begin, ++lane) {
      const R g = backward_element<A>(R(grad_y[begin]), R(ref[begin]), bias, p);
      grad_x[begin] = T(g);
      sum[lane] += g;
    }
    if (sums) {
      R total = 0;
      for (int lane = 0; lane < lanes; ++lane) total += sum[lane];
      sums[row] = total;
    }
  }
}

// Rows [begin, end) for inner = 1; `sums`, unless null, is one vector of channels for the whole range.
template <Activation A, typename T, typename R>
FASTUNLEARN_CLONES void backward_columns(const T* grad_y, const T* ref, const T* b, T* grad_x, R* sums, int64_t begin,
                                         int64_t end, int64_t channels, Parameters<R> p) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t i = row * channels + c;
      const R g = backward_element<A>(R(grad_y[i]), R(ref[i]), b ? R(b[c]) : R(0), p);
      grad_x[i] = T(g);
      if (sums) sums[c] += g;
    }
  }
}

template <Activation A, typename T>
void forward(const T* x, const T* b, T* y, Extent extent, Parameters<accumulate_t<T>> p) {
  if (extent.inner == 1 && b) {
    parallel_range(extent.outer, extent.channels,
                   [&](int64_t begin, int64_t end) { forward_columns<A>(x, b, y, begin, end, extent.channels, p); });
  } else {
    parallel_range(extent.numel(), 1,
                   [&](int64_t begin, int64_t end) { forward_rows<A>(x, b, y, begin, end, extent, p); });
  }
}

template <Activation A, typename T>
void backward(const T* grad_y, const T* ref, const T* b, T* grad_x, Extent extent, Parameters<accumulate_t<T>> p) {
  if (extent.inner == 1 && b) {
    parallel_range(extent.outer, extent.channels, [&](int64_t begin, int64_t end) {
      backward_columns<A, T, accumulate_t<T>>(grad_y, ref, b, grad_x, nullptr, begin, end, extent.channels, p);
    });
  } else {
    parallel_range(extent.numel(), 1, [&](int64_t begin, int64_t end) {
      backward_rows<A, T, accumulate_t<T>>(grad_y, ref, b, grad_x, nullptr, begin, end, extent, p);
    });
  }
}

// The same with grad_b. Partial sums are cut by shape, never by thread, and added in order in double.
template <Activation A, typename T>
void backward_with_sums(const T* grad_y, const T* ref, const T* b, T* grad_x, T* grad_b, Extent extent,
                        Parameters<accumulate_t<T>> p) {
  using R = accumulate_t<T>;
  constexpr int64_t rows_per_sum = 256;
  const bool columns = extent.inner == 1;
  const int64_t parts = columns ? (extent.outer + rows_per_sum - 1) / rows_per_sum : extent.outer;
  std::vector<R> sums(parts * extent.channels);
  if (columns) {
    parallel_range(parts, rows_per_sum * extent.channels, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        backward_columns<A>(grad_y, ref, b, grad_x, &sums[part * extent.channels], part * rows_per_sum,
                            std::min(extent.outer, (part + 1) * rows_per_sum), extent.channels, p);
      }
    });
  } else {
    parallel_range(parts * extent.channels, extent.inner, [&](int64_t begin, int64_t end) {
      backward_rows<A>(grad_y, ref, b, grad_x, sums.data(), begin * extent.inner, end * extent.inner, extent, p);
    });
  }
  for (int64_t c = 0; c < extent.channels; ++c) {
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += sums[part * extent.channels + c];
    grad_b[c] = T(R(total));
  }
}

Tensor bias_act_cpu(const Tensor& x, const std::optional<Tensor>& b, int64_t dim, const std::string& act, double alpha,
                    double gain, double clamp) {
  const Forward f(x, b, dim);
  dispatch(x, act, "bias_act", [&](auto zero, auto activation) {
    using T = decltype(zero);
    forward<activation.value>(static_cast<const T*>(f.x.const_data_ptr()), static_cast<const T*>(f.b),
                              static_cast<T*>(f.y.mutable_data_ptr()), f.extent,
                              parameters<accumulate_t<T>, T>(alpha, gain, clamp));
  });
  return f.y;
}

std::tuple<Tensor, Tensor> bias_act_backward_cpu(const Tensor& grad_y, const Tensor& ref,
                                                 const std::optional<Tensor>& b, int64_t dim, const std::string& act,
                                                 double alpha, double gain, double clamp, bool reduce) {
  const char* op = "bias_act_backward";
  const Backward f(grad_y, ref, b, dim, reduce, op);
  dispatch(ref, act, op, [&](auto zero, auto activation) {
    using T = decltype(zero);
    const auto p = parameters<accumulate_t<T>, T>(alpha, gain, clamp);
    const T* grad = static_cast<const T*>(f.grad_y.const_data_ptr());
    const T* reference = static_cast<const T*>(f.ref.const_data_ptr());
    const T* bias = static_cast<const T*>(f.b);
    T* grad_x = static_cast<T*>(f.grad_x.mutable_data_ptr());
    if (reduce) {
      T* grad_b = static_cast<T*>(f.grad_b.mutable_data_ptr());
      backward_with_sums<activation.value>(grad, reference, bias, grad_x, grad_b, f.extent, p);
    } else {
      backward<activation.value>(grad, reference, bias, grad_x, f.extent, p);
    }
  });
  return {f.grad_x, f.grad_b};
}

}  // namespace
}  // namespace fastunlearn::bias_act

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("bias_act", TORCH_BOX(&fastunlearn::bias_act::bias_act_cpu));
  m.impl("bias_act_backward", TORCH_BOX(&fastunlearn::bias_act::bias_act_backward_cpu));
}
