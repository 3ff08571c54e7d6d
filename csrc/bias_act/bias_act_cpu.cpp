// bias_act on the CPU: one pass over memory forward, one backward that also sums the bias gradient.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "bias_act/bias_act_arguments.h"
#include "bias_act/piecewise_avx512.h"
#include "bias_act/signs_cpu.h"
#include "common/launch.h"
#include "common/tiles_cpu.h"

namespace fastunlearn::bias_act {
namespace {

// Partial sums of a row, so that the compiler can add in vectors without changing the order of any sum; enough of them
// that one addition does not wait for the last.
constexpr int lanes = 32;

static_assert(tile % sign_bits == 0);

// The kernels work on memory elements [begin, end) of [outer, channels, inner], in the arithmetic type R. Pointers are
// to element `begin`; the bias and the sums are those of the whole tensor.

// inner > 1: along a row the bias is one number.
template <Activation A, typename R>
FASTUNLEARN_CLONES void forward_rows(const R* x, const R* b, R* y, int64_t begin, int64_t end, Extent extent,
                                     Parameters<R> p) {
  for (int64_t row = begin / extent.inner; begin < end; ++row) {
    const int64_t n = std::min(end, (row + 1) * extent.inner) - begin;
    const R bias = b ? b[row % extent.channels] : R(0);
    FASTUNLEARN_NO_DEPENDENCE
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
    FASTUNLEARN_NO_DEPENDENCE
    for (int64_t i = 0; i < n; ++i) y[i] = forward_element<A>(x[i], b[channel + i], p);
    x += n, y += n, begin += n;
  }
}

template <typename R>
__attribute__((always_inline)) inline R sum_of(const R* values, int64_t n) {
  R sum[lanes] = {};
  for (; n >= lanes; values += lanes, n -= lanes) {
    for (int lane = 0; lane < lanes; ++lane) sum[lane] += values[lane];
  }
  for (int64_t lane = 0; lane < n; ++lane) sum[lane] += values[lane];
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
  }
  return sum[0];
}

// inner > 1; `sums`, unless null, gets the sum of every row added: from the cache, since kernels work tile by tile.
template <Activation A, typename R>
FASTUNLEARN_CLONES void backward_rows(const R* grad_y, const R* ref, const R* b, R* grad_x, R* sums, int64_t begin,
                                      int64_t end, Extent extent, Parameters<R> p) {
  for (int64_t row = begin / extent.inner; begin < end; ++row) {
    const int64_t n = std::min(end, (row + 1) * extent.inner) - begin;
    const R bias = b ? b[row % extent.channels] : R(0);
    FASTUNLEARN_NO_DEPENDENCE
    for (int64_t i = 0; i < n; ++i) grad_x[i] = backward_element<A>(grad_y[i], ref[i], bias, p);
    if (sums) sums[row] += sum_of(grad_x, n);
    grad_y += n, ref += n, grad_x += n, begin += n;
  }
}

// inner = 1; `sums`, unless null, has one element for each channel.
template <Activation A, typename R>
FASTUNLEARN_CLONES void backward_columns(const R* grad_y, const R* ref, const R* b, R* grad_x, R* sums, int64_t begin,
                                         int64_t end, Extent extent, Parameters<R> p) {
  for (int64_t channel = begin % extent.channels; begin < end; channel = 0) {
    const int64_t n = std::min(end - begin, extent.channels - channel);
    FASTUNLEARN_NO_DEPENDENCE
    for (int64_t i = 0; i < n; ++i) {
      grad_x[i] = backward_element<A>(grad_y[i], ref[i], b ? b[channel + i] : R(0), p);
    }
    if (sums) {
      FASTUNLEARN_NO_DEPENDENCE
      for (int64_t i = 0; i < n; ++i) sums[channel + i] += grad_x[i];
    }
    grad_y += n, ref += n, grad_x += n, begin += n;
  }
}

// Calls body(begin, stop) for the tiles of [begin, end). They are cut at multiples of `tile` of the whole tensor: where
// a row is cut, and so its sum, depends on no thread.
template <typename Body>
void for_tiles(int64_t begin, int64_t end, const Body& body) {
  while (begin < end) {
    const int64_t stop = std::min(end, (begin / tile + 1) * tile);
    body(begin, stop);
    begin = stop;
  }
}

// How a tensor is walked: rows of few channels are joined to longer ones of whole vectors, of which the last may end
// early.
Extent joined_rows(Extent extent) {
  constexpr int64_t short_row = 64;
  if (extent.inner > 1 || extent.channels == 0 || extent.channels >= short_row) return extent;
  const int64_t vectors = std::lcm(extent.channels, vector_size);
  const int64_t rows = vectors / extent.channels * ((short_row + vectors - 1) / vectors);
  return {(extent.outer + rows - 1) / rows, extent.channels * rows, 1};
}

// b in the arithmetic type along a joined row; empty where there is none.
template <typename T, typename R>
std::vector<R> joined_bias(const void* b, Extent extent) {
  std::vector<R> joined;
  if (const T* source = static_cast<const T*>(b)) {
    joined.resize(joined_rows(extent).channels);
    for (size_t i = 0; i < joined.size(); ++i) joined[i] = R(source[i % extent.channels]);
  }
  return joined;
}

// n elements, walked as `extent`. `signs` is null or gets the signs of y.
template <Activation A, typename T, typename R>
void forward(const T* x, const R* b, T* y, uint32_t* signs, int64_t n, Extent extent, Parameters<R> p) {
  if (forward_in_registers<A>(x, b, y, signs, n, extent, p)) return;
  const auto kernel = extent.inner == 1 && b ? forward_columns<A, R> : forward_rows<A, R>;
  parallel_range((n + tile - 1) / tile, tile, [&](int64_t first, int64_t last) {
    R buffer[tile];
    Result<T, R> result(y, n);
    for_tiles(first * tile, std::min(n, last * tile), [&](int64_t begin, int64_t stop) {
      R* out = result.place(begin);
      kernel(read(x, begin, stop, buffer), b, out, begin, stop, extent, p);
      if (signs) write_signs(out, stop - begin, p.gain, signs + begin / sign_bits);
      result.finish(begin, stop);
    });
  });
}

// Elements [begin, end) of n. `signs`, unless null, is read in place of ref.
template <Activation A, typename T, typename R>
void backward(const T* grad_y, const T* ref, const uint32_t* signs, const R* b, T* grad_x, R* sums, int64_t begin,
              int64_t end, int64_t n, Extent extent, Parameters<R> p) {
  const auto kernel = extent.inner == 1 && (b || sums) ? backward_columns<A, R> : backward_rows<A, R>;
  R grad_buffer[tile], ref_buffer[tile + sign_bits];
  Result<T, R> result(grad_x, n);
  for_tiles(begin, end, [&](int64_t from, int64_t to) {
    const R* outputs = signs ? read_signs(signs, from, to, p.gain, ref_buffer) : read(ref, from, to, ref_buffer);
    kernel(read(grad_y, from, to, grad_buffer), outputs, b, result.place(from), sums, from, to, extent, p);
    result.finish(from, to);
  });
}

// The same over the whole tensor, with the sums of every channel of a walked row. They are cut by shape, and added in
// order in double.
template <Activation A, typename T, typename R>
std::vector<double> backward_with_sums(const T* grad_y, const T* ref, const uint32_t* signs, const R* b, T* grad_x,
                                       int64_t n, Extent extent, Parameters<R> p) {
  std::vector<double> totals(extent.channels);
  if (backward_in_registers<A>(grad_y, ref, signs, grad_x, totals.data(), n, extent, p)) return totals;
  constexpr int64_t rows_per_sum = 256;
  const bool columns = extent.inner == 1;
  const int64_t parts = columns ? (extent.outer + rows_per_sum - 1) / rows_per_sum : extent.outer;
  std::vector<R> sums(parts * extent.channels);
  if (columns) {
    const int64_t per_part = rows_per_sum * extent.channels;
    parallel_range(parts, per_part, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        backward<A>(grad_y, ref, signs, b, grad_x, &sums[part * extent.channels], part * per_part,
                    std::min(n, (part + 1) * per_part), n, extent, p);
      }
    });
  } else {
    parallel_range(parts * extent.channels, extent.inner, [&](int64_t first, int64_t last) {
      backward<A>(grad_y, ref, signs, b, grad_x, sums.data(), first * extent.inner, last * extent.inner, n, extent, p);
    });
  }
  for (size_t i = 0; i < sums.size(); ++i) totals[i % totals.size()] += sums[i];
  return totals;
}

std::tuple<Tensor, Tensor> bias_act_cpu(const Tensor& x, const std::optional<Tensor>& b, int64_t dim,
                                        const std::string& act, double alpha, double gain, double clamp, bool signs) {
  const Forward f(x, b, dim, act, clamp, signs);
  dispatch(x, act, "bias_act", [&](auto zero, auto activation) {
    using T = decltype(zero);
    using R = accumulate_t<T>;
    const std::vector<R> bias = joined_bias<T, R>(f.b, f.extent);
    forward<activation.value>(static_cast<const T*>(f.x.const_data_ptr()), f.b ? bias.data() : nullptr,
                              static_cast<T*>(f.y.mutable_data_ptr()), f.sign_words(), f.extent.numel(),
                              joined_rows(f.extent), parameters<R, T>(alpha, gain, clamp));
  });
  return {f.y, f.signs};
}

std::tuple<Tensor, Tensor> bias_act_backward_cpu(const Tensor& grad_y, const Tensor& ref,
                                                 const std::optional<Tensor>& signs, const std::optional<Tensor>& b,
                                                 int64_t dim, const std::string& act, double alpha, double gain,
                                                 double clamp, bool reduce) {
  const char* op = "bias_act_backward";
  const Backward f(grad_y, ref, signs, b, dim, act, clamp, reduce, op);
  dispatch(ref, act, op, [&](auto zero, auto activation) {
    using T = decltype(zero);
    using R = accumulate_t<T>;
    const auto p = parameters<R, T>(alpha, gain, clamp);
    const T* grad = static_cast<const T*>(f.grad_y.const_data_ptr());
    const T* reference = static_cast<const T*>(f.ref.const_data_ptr());
    T* grad_x = static_cast<T*>(f.grad_x.mutable_data_ptr());
    const std::vector<R> joined = joined_bias<T, R>(f.b, f.extent);
    const R* bias = f.b ? joined.data() : nullptr;
    const int64_t n = f.extent.numel(), channels = f.extent.channels;
    const Extent extent = joined_rows(f.extent);
    if (!reduce) {
      if (backward_in_registers<activation.value>(grad, reference, f.signs, grad_x, nullptr, n, extent, p)) return;
      parallel_range(n, 1, [&](int64_t begin, int64_t end) {
        backward<activation.value, T, R>(grad, reference, f.signs, bias, grad_x, nullptr, begin, end, n, extent, p);
      });
      return;
    }
    const auto totals = backward_with_sums<activation.value>(grad, reference, f.signs, bias, grad_x, n, extent, p);
    T* grad_b = static_cast<T*>(f.grad_b.mutable_data_ptr());
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0;
      for (int64_t i = c; i < extent.channels; i += channels) total += totals[i];
      grad_b[c] = T(R(total));
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
