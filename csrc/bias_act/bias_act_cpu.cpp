// bias_act on the CPU: one pass over memory forward, one backward that also sums the bias gradient.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <type_traits>
#include <vector>

#include "bias_act/bias_act_arguments.h"
#include "common/launch.h"

namespace fastunlearn::bias_act {
namespace {

// Partial sums of a row, so that the compiler can add in vectors without changing the order of any sum.
constexpr int lanes = 16;

// The kernels work on memory elements [begin, end) of [outer, channels, inner], in the arithmetic type R. Pointers are
// to element `begin`; the bias and the sums are those of the whole tensor.

// inner > 1: along a row the bias is one number.
template <Activation A, typename R>
FASTUNLEARN_CLONES void forward_rows(const R* x, const R* b, R* y, int64_t begin, int64_t end, Extent extent,
                                     Parameters<R> p) {
  for (int64_t row = begin / extent.inner; begin < end; ++row) {
    const int64_t n = std::min(end, (row + 1) * extent.inner) - begin;
    const R bias = b ? b[row % extent.channels] : R(0);
    for (int64_t i = 0; i < n; ++i) y[i] = forward_element<A>(x[i], bias, p);
    x += n, y += n, begin += n;
  }
}

// inner = 1: a row holds every channel once.
template <Activation A, typename R>
FASTUNLEARN_CLONES void forward_columns(const R* x, const R* b, R* y, int64_t begin, int64_t end, Extent extent,
                                        Parameters<R> p) {
  for (int64_t channel = begin % extent.channels; begin < end; channel = 0) {
    const int64_t n = std::min(end - begin, extent.channels - channel);
    for (int64_t i = 0; i < n; ++i) y[i] = forward_element<A>(x[i], b[channel + i], p);
    x += n, y += n, begin += n;
  }
}

// inner > 1; `sums`, unless null, gets the sum of every row added.
template <Activation A, typename R>
FASTUNLEARN_CLONES void backward_rows(const R* grad_y, const R* ref, const R* b, R* grad_x, R* sums, int64_t begin,
                                      int64_t end, Extent extent, Parameters<R> p) {
  for (int64_t row = begin / extent.inner; begin < end; ++row) {
    const int64_t n = std::min(end, (row + 1) * extent.inner) - begin;
    const R bias = b ? b[row % extent.channels] : R(0);
    R sum[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      for (int lane = 0; lane < lanes; ++lane) {
        const R g = backward_element<A>(grad_y[i + lane], ref[i + lane], bias, p);
        grad_x[i + lane] = g;
        sum[lane] += g;
      }
    }
    for (int lane = 0; i < n; ++i, ++lane) {
      const R g = backward_element<A>(grad_y[i], ref[i], bias, p);
      grad_x[i] = g;
      sum[lane] += g;
    }
    if (sums) {
      for (int lane = 1; lane < lanes; ++lane) sum[0] += sum[lane];
      sums[row] += sum[0];
    }
    grad_y += n, ref += n, grad_x += n, begin += n;
  }
}

// inner = 1; `sums`, unless null, has one element for each channel.
template <Activation A, typename R>
FASTUNLEARN_CLONES void backward_columns(const R* grad_y, const R* ref, const R* b, R* grad_x, R* sums, int64_t begin,
                                         int64_t end, Extent extent, Parameters<R> p) {
  for (int64_t channel = begin % extent.channels; begin < end; channel = 0) {
    const int64_t n = std::min(end - begin, extent.channels - channel);
    for (int64_t i = 0; i < n; ++i) {
      const R g = backward_element<A>(grad_y[i], ref[i], b ? b[channel + i] : R(0), p);
      grad_x[i] = g;
      if (sums) sums[channel + i] += g;
    }
    grad_y += n, ref += n, grad_x += n, begin += n;
  }
}

template <typename To, typename From>
FASTUNLEARN_CLONES void convert(const From* from, To* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
}

// Calls body(inputs, output, begin, end) with pointers to element `begin` in the arithmetic type. Half types pass
// through buffers, cut at multiples of `tile` of the whole tensor: where a row is cut, and so its sum, depends on no
// thread.
template <size_t N, typename T, typename Body>
void in_arithmetic_type(std::array<const T*, N> inputs, T* output, int64_t begin, int64_t end, const Body& body) {
  using R = accumulate_t<T>;
  std::array<const R*, N> pointers;
  if constexpr (std::is_same_v<T, R>) {
    for (size_t k = 0; k < N; ++k) pointers[k] = inputs[k] + begin;
    body(pointers, output + begin, begin, end);
  } else {
    constexpr int64_t tile = 1024;
    R buffers[N][tile];
    while (begin < end) {
      const int64_t stop = std::min(end, (begin / tile + 1) * tile);
      for (size_t k = 0; k < N; ++k) {
        convert(inputs[k] + begin, buffers[k], stop - begin);
        pointers[k] = buffers[k];
      }
      body(pointers, buffers[0], begin, stop);
      convert(buffers[0], output + begin, stop - begin);
      begin = stop;
    }
  }
}

template <Activation A, typename T, typename R>
void forward(const T* x, const R* b, T* y, Extent extent, Parameters<R> p) {
  const auto kernel = extent.inner == 1 && b ? forward_columns<A, R> : forward_rows<A, R>;
  parallel_range(extent.numel(), 1, [&](int64_t begin, int64_t end) {
    in_arithmetic_type<1, T>({x}, y, begin, end, [&](const auto& in, R* out, int64_t from, int64_t to) {
      kernel(in[0], b, out, from, to, extent, p);
    });
  });
}

template <Activation A, typename T, typename R>
void backward(const T* grad_y, const T* ref, const R* b, T* grad_x, R* sums, int64_t begin, int64_t end, Extent extent,
              Parameters<R> p) {
  const auto kernel = extent.inner == 1 && (b || sums) ? backward_columns<A, R> : backward_rows<A, R>;
  in_arithmetic_type<2, T>({grad_y, ref}, grad_x, begin, end, [&](const auto& in, R* out, int64_t from, int64_t to) {
    kernel(in[0], in[1], b, out, sums, from, to, extent, p);
  });
}

// The same over the whole tensor with grad_b. Partial sums are cut by shape, and added in order in double.
template <Activation A, typename T, typename R>
void backward_with_sums(const T* grad_y, const T* ref, const R* b, T* grad_x, T* grad_b, Extent extent,
                        Parameters<R> p) {
  constexpr int64_t rows_per_sum = 256;
  const bool columns = extent.inner == 1;
  const int64_t parts = columns ? (extent.outer + rows_per_sum - 1) / rows_per_sum : extent.outer;
  std::vector<R> sums(parts * extent.channels);
  if (columns) {
    const int64_t per_part = rows_per_sum * extent.channels, numel = extent.numel();
    parallel_range(parts, per_part, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        backward<A>(grad_y, ref, b, grad_x, &sums[part * extent.channels], part * per_part,
                    std::min(numel, (part + 1) * per_part), extent, p);
      }
    });
  } else {
    parallel_range(parts * extent.channels, extent.inner, [&](int64_t first, int64_t last) {
      backward<A>(grad_y, ref, b, grad_x, sums.data(), first * extent.inner, last * extent.inner, extent, p);
    });
  }
  for (int64_t c = 0; c < extent.channels; ++c) {
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += sums[part * extent.channels + c];
    grad_b[c] = T(R(total));
  }
}

// The bias in the arithmetic type; `widened` keeps what had to be converted.
template <typename T, typename R>
const R* widen(const void* b, int64_t n, std::vector<R>& widened) {
  const T* source = static_cast<const T*>(b);
  if constexpr (std::is_same_v<T, R>) {
    return source;
  } else {
    if (source) widened.assign(source, source + n);
    return source ? widened.data() : nullptr;
  }
}

Tensor bias_act_cpu(const Tensor& x, const std::optional<Tensor>& b, int64_t dim, const std::string& act, double alpha,
                    double gain, double clamp) {
  const Forward f(x, b, dim);
  dispatch(x, act, "bias_act", [&](auto zero, auto activation) {
    using T = decltype(zero);
    using R = accumulate_t<T>;
    std::vector<R> widened;
    forward<activation.value>(static_cast<const T*>(f.x.const_data_ptr()), widen<T>(f.b, f.extent.channels, widened),
                              static_cast<T*>(f.y.mutable_data_ptr()), f.extent, parameters<R, T>(alpha, gain, clamp));
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
    using R = accumulate_t<T>;
    const auto p = parameters<R, T>(alpha, gain, clamp);
    const T* grad = static_cast<const T*>(f.grad_y.const_data_ptr());
    const T* reference = static_cast<const T*>(f.ref.const_data_ptr());
    T* grad_x = static_cast<T*>(f.grad_x.mutable_data_ptr());
    std::vector<R> widened;
    const R* bias = widen<T>(f.b, f.extent.channels, widened);
    if (reduce) {
      T* grad_b = static_cast<T*>(f.grad_b.mutable_data_ptr());
      backward_with_sums<activation.value>(grad, reference, bias, grad_x, grad_b, f.extent, p);
    } else {
      parallel_range(f.extent.numel(), 1, [&](int64_t begin, int64_t end) {
        backward<activation.value, T, R>(grad, reference, bias, grad_x, nullptr, begin, end, f.extent, p);
      });
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
