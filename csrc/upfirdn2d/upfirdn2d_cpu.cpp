// upfirdn2d on the CPU. A filter that is an outer product (every filter made of 1-D taps) runs as a vertical pass into
// a cache-resident block of rows and a horizontal pass out of it; any other filter as one horizontal pass per tap row.
//
// The outputs of an axis fall into phases: o = period·m + r meets the samples step·m + source_r, step·m + source_r + 1,
// …, with weights that depend on r alone. No zero is ever inserted, and none is multiplied.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "upfirdn2d/upfirdn2d.h"

// What a cloned function calls must be inlined into it, or it would run as baseline code.
#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
#else
#define INLINE inline
#define INLINE_LAMBDA
#endif

namespace fastunlearn {
namespace {

using torch::stable::Tensor;

template <typename T>
struct Phase {
  int64_t source;
  std::vector<T> weights;
};

template <typename T>
struct Polyphase {
  int64_t period, step;
  std::vector<Phase<T>> phases;
};

template <typename T>
Polyphase<T> polyphase(const Axis& axis, const double* taps) {
  const int64_t common = std::gcd(axis.up, axis.down);
  Polyphase<T> result{axis.up / common, axis.down / common, {}};
  for (int64_t r = 0; r < result.period; ++r) {
    const Reach at = reach(axis, r);
    Phase<T> phase{at.source, {}};
    for (int64_t k = 0; k < at.count; ++k) {
      phase.weights.push_back(static_cast<T>(taps[at.first_tap + k * axis.up]));
    }
    result.phases.push_back(std::move(phase));
  }
  return result;
}

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The samples that outputs [begin, end) meet, whether or not they exist.
Range reach_of(const Axis& axis, Range outputs) {
  Range samples{reach(axis, outputs.begin).source, reach(axis, outputs.begin).source + 1};
  for (int64_t o = std::max(outputs.begin, outputs.end - axis.up); o < outputs.end; ++o) {
    const Reach at = reach(axis, o);
    samples.end = std::max(samples.end, at.source + at.count);
  }
  return samples;
}

Range clip(Range samples, int64_t size) {
  const int64_t begin = std::clamp<int64_t>(samples.begin, 0, size);
  return {begin, std::clamp<int64_t>(samples.end, begin, size)};
}

// ---- inner loops ---------------------------------------------------------------------------------------------------

// Calls body(V, c) with blocks [c, c + V) that cover [0, n), V as large as n allows. With Overlap the last block reaches
// back over the one before it, so that a width of 17 costs two vectors and no scalar tail; a body that accumulates must
// not see an element twice.
template <int V, bool Overlap, typename Body>
INLINE void for_blocks(int64_t c, int64_t n, const Body& body) {
  const std::integral_constant<int, V> block;
  for (; c + V <= n; c += V) body(block, c);
  if (c == n) return;
  if (Overlap && n >= V) {
    body(block, n - V);
  } else if constexpr (V > 1) {
    for_blocks<V / 2, Overlap>(c, n, body);
  }
}

// out(i)[m] = Σ_k weights[k] · row(i, k)[m] for rows 0 ≤ i < rows of n values.
struct Sum {
  template <int Taps, bool Add, typename T, typename Row>
  static INLINE void run(int64_t first, T* out, int64_t out_stride, int64_t rows, const Row& row, const T* weights,
                         int64_t n) {
    T w[Taps];
    for (int k = 0; k < Taps; ++k) w[k] = weights[first + k];
    for (int64_t i = 0; i < rows; ++i) {
      T* __restrict to = out + i * out_stride;
      const T* from[Taps];
      for (int k = 0; k < Taps; ++k) from[k] = row(i, first + k);
      for_blocks<16, !Add>(0, n, [&](auto block, int64_t c) INLINE_LAMBDA {
        for (int j = 0; j < block; ++j) {
          T sum = w[0] * from[0][c + j];
          for (int k = 1; k < Taps; ++k) sum += w[k] * from[k][c + j];
          to[c + j] = Add ? to[c + j] + sum : sum;
        }
      });
    }
  }
};

// Upsampling by two along rows: out[2m + r] = Σ_k weights_r[k] · row_r[m + k].
struct Interleave {
  template <int Taps, bool Add, typename T>
  static INLINE void run(int64_t first, T* out, int64_t out_stride, int64_t rows, const T* row0, const T* row1,
                         int64_t row_stride, const T* weights0, const T* weights1, int64_t n) {
    T w0[Taps], w1[Taps];
    for (int k = 0; k < Taps; ++k) {
      w0[k] = weights0[first + k];
      w1[k] = weights1[first + k];
    }
    for (int64_t i = 0; i < rows; ++i) {
      T* __restrict to = out + i * out_stride;
      const T* from0 = row0 + i * row_stride + first;
      const T* from1 = row1 + i * row_stride + first;
      for_blocks<16, !Add>(0, n, [&](auto block, int64_t m) INLINE_LAMBDA {
        for (int j = 0; j < block; ++j) {
          T sum0 = w0[0] * from0[m + j], sum1 = w1[0] * from1[m + j];
          for (int k = 1; k < Taps; ++k) {
            sum0 += w0[k] * from0[m + j + k];
            sum1 += w1[k] * from1[m + j + k];
          }
          to[2 * (m + j)] = Add ? to[2 * (m + j)] + sum0 : sum0;
          to[2 * (m + j) + 1] = Add ? to[2 * (m + j) + 1] + sum1 : sum1;
        }
      });
    }
  }
};

// Downsampling by two along rows: out[m] = Σ_k weights[k] · row[2m + k].
struct Decimate {
  template <int Taps, bool Add, typename T>
  static INLINE void run(int64_t first, T* out, int64_t out_stride, int64_t rows, const T* row, int64_t row_stride,
                         const T* weights, int64_t n) {
    T w[Taps];
    for (int k = 0; k < Taps; ++k) w[k] = weights[first + k];
    for (int64_t i = 0; i < rows; ++i) {
      T* __restrict to = out + i * out_stride;
      const T* from = row + i * row_stride + first;
      for_blocks<16, !Add>(0, n, [&](auto block, int64_t m) INLINE_LAMBDA {
        for (int j = 0; j < block; ++j) {
          T sum = w[0] * from[2 * (m + j)];
          for (int k = 1; k < Taps; ++k) sum += w[k] * from[2 * (m + j) + k];
          to[m + j] = Add ? to[m + j] + sum : sum;
        }
      });
    }
  }
};

// Runs a filter in passes of at most four taps, so that their number is known at compile time. Every pass but the
// first adds to what is there, as does the first if `add` says so.
template <typename Pass, typename... Args>
INLINE void in_passes(int64_t taps, bool add, const Args&... args) {
  for (int64_t first = 0; first < taps; first += 4) {
    const int64_t left = taps - first;
    if (add || first > 0) {
      if (left == 1) {
        Pass::template run<1, true>(first, args...);
      } else if (left == 2) {
        Pass::template run<2, true>(first, args...);
      } else if (left == 3) {
        Pass::template run<3, true>(first, args...);
      } else {
        Pass::template run<4, true>(first, args...);
      }
    } else if (left == 1) {
      Pass::template run<1, false>(first, args...);
    } else if (left == 2) {
      Pass::template run<2, false>(first, args...);
    } else if (left == 3) {
      Pass::template run<3, false>(first, args...);
    } else {
      Pass::template run<4, false>(first, args...);
    }
  }
}

// ---- the two passes ------------------------------------------------------------------------------------------------

// Rows [range.begin, range.end) of a plane; every other row is zero.
template <typename T>
struct Rows {
  const T* data;
  Range range;
  int64_t stride;
  const T* zero;
  const T* operator()(int64_t row) const {
    return range.begin <= row && row < range.end ? data + (row - range.begin) * stride : zero;
  }
};

// Output rows `outputs` of the vertical pass, n values each.
template <typename T>
INLINE void vertical_pass(T* out, int64_t out_stride, const Rows<T>& rows, const Polyphase<T>& filter, Range outputs,
                          int64_t n) {
  for (int64_t r = 0; r < filter.period; ++r) {
    const Phase<T>& phase = filter.phases[r];
    const int64_t begin = std::max<int64_t>(0, ceil_div(outputs.begin - r, filter.period));
    const int64_t end = std::max(begin, ceil_div(outputs.end - r, filter.period));
    const int64_t source = begin * filter.step + phase.source, step = filter.step;
    T* const to = out + (begin * filter.period + r - outputs.begin) * out_stride;
    const int64_t to_stride = filter.period * out_stride;
    if (phase.weights.empty()) {
      for (int64_t i = 0; i < end - begin; ++i) std::fill_n(to + i * to_stride, n, T(0));
    }
    in_passes<Sum>(phase.weights.size(), false, to, to_stride, end - begin,
                   [&](int64_t i, int64_t k) INLINE_LAMBDA { return rows(source + i * step + k); },
                   phase.weights.data(), n);
  }
}

// `rows` rows of the horizontal pass: out_w pixels of `channels` values, from rows whose first pixel is sample `begin`.
template <typename T>
INLINE void horizontal_pass(T* out, const T* buffer, int64_t stride, int64_t rows, int64_t begin,
                            const Polyphase<T>& filter, int64_t out_w, int64_t channels, bool add) {
  const int64_t period = filter.period, step = filter.step, out_stride = out_w * channels;
  const Phase<T>& even = filter.phases[0];
  const Phase<T>& odd = filter.phases[period - 1];
  const int64_t taps = even.weights.size();
  const T* const first = buffer + (even.source - begin) * channels;
  int64_t done = 0;
  if (taps > 0 && period == 1 && step == 1) {
    in_passes<Sum>(taps, add, out, out_stride, rows,
                   [=](int64_t i, int64_t k) INLINE_LAMBDA { return first + i * stride + k * channels; },
                   even.weights.data(), out_stride);
    return;
  }
  if (taps > 0 && channels == 1 && period == 1 && step == 2) {
    in_passes<Decimate>(taps, add, out, out_stride, rows, first, stride, even.weights.data(), out_w);
    return;
  }
  if (taps > 0 && channels == 1 && period == 2 && step == 1 && odd.weights.size() == even.weights.size()) {
    in_passes<Interleave>(taps, add, out, out_stride, rows, first, buffer + (odd.source - begin), stride,
                          even.weights.data(), odd.weights.data(), out_w / 2);
    done = out_w / 2 * 2;
  }
  for (int64_t i = 0; i < rows && done < out_w; ++i, out += out_stride, buffer += stride) {
    for (int64_t r = 0; r < period; ++r) {
      const Phase<T>& phase = filter.phases[r];
      const T* const from = buffer + (phase.source - begin) * channels;
      const int64_t m = ceil_div(done - r, period), count = ceil_div(out_w - r, period);
      T* const to = out + (m * period + r) * channels;
      if (channels == 1) {
        for (int64_t j = m; j < count; ++j) {
          T sum = add ? out[j * period + r] : T(0);
          for (size_t k = 0; k < phase.weights.size(); ++k) sum += phase.weights[k] * from[j * step + k];
          out[j * period + r] = sum;
        }
        continue;
      }
      if (phase.weights.empty() && !add) {
        for (int64_t j = m; j < count; ++j) std::fill_n(out + (j * period + r) * channels, channels, T(0));
      }
      in_passes<Sum>(phase.weights.size(), add, to, period * channels, count - m,
                     [=](int64_t j, int64_t k) INLINE_LAMBDA { return from + ((m + j) * step + k) * channels; },
                     phase.weights.data(), channels);
    }
  }
}

FASTUNLEARN_CLONES void vertical(float* out, int64_t out_stride, const Rows<float>& rows,
                                 const Polyphase<float>& filter, Range outputs, int64_t n) {
  vertical_pass(out, out_stride, rows, filter, outputs, n);
}

FASTUNLEARN_CLONES void vertical(double* out, int64_t out_stride, const Rows<double>& rows,
                                 const Polyphase<double>& filter, Range outputs, int64_t n) {
  vertical_pass(out, out_stride, rows, filter, outputs, n);
}

FASTUNLEARN_CLONES void horizontal(float* out, const float* buffer, int64_t stride, int64_t rows, int64_t begin,
                                   const Polyphase<float>& filter, int64_t out_w, int64_t channels, bool add) {
  horizontal_pass(out, buffer, stride, rows, begin, filter, out_w, channels, add);
}

FASTUNLEARN_CLONES void horizontal(double* out, const double* buffer, int64_t stride, int64_t rows, int64_t begin,
                                   const Polyphase<double>& filter, int64_t out_w, int64_t channels, bool add) {
  horizontal_pass(out, buffer, stride, rows, begin, filter, out_w, channels, add);
}

FASTUNLEARN_CLONES void convert(const Half* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

FASTUNLEARN_CLONES void convert(const BFloat16* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

FASTUNLEARN_CLONES void convert(const float* from, Half* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

FASTUNLEARN_CLONES void convert(const float* from, BFloat16* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

// ---- blocks of rows, planes, threads -------------------------------------------------------------------------------

// The whole call. A plane holds `channels` interleaved values per pixel: one channel of one image in NCHW, all of an
// image in channels_last.
template <typename S>
struct Job {
  using T = accumulate_t<S>;
  const S* x;
  S* y;
  int64_t images, planes_per_image, image_stride, plane_stride, row_stride, channels;
  Axis vertical, horizontal;
  bool separable;
  Polyphase<T> along_columns;            // used when separable
  std::vector<Polyphase<T>> along_rows;  // one when separable, else one per tap row

  // A block is `block_rows` output rows of one plane, so that what is between the passes stays in the L1 cache.
  Range columns() const { return reach_of(horizontal, {0, horizontal.out}); }
  int64_t buffer_stride() const { return columns().size() * channels; }
  int64_t block_rows() const {
    const int64_t fit = 16384 / (buffer_stride() * static_cast<int64_t>(sizeof(T)));
    const int64_t rows = separable ? fit : (fit - vertical.taps / vertical.up) * vertical.up / vertical.down;
    return std::clamp<int64_t>(rows, 1, vertical.out);
  }
};

// Blocks [begin, end) of the call, on one thread.
template <typename S>
void run_blocks(const Job<S>& job, int64_t blocks_per_plane, int64_t begin, int64_t end) {
  using T = typename Job<S>::T;
  constexpr bool stored_wide = std::is_same_v<S, T>;
  const Range columns = job.columns(), inside = clip(columns, job.horizontal.in);
  const int64_t channels = job.channels, width = inside.size() * channels, row_size = job.horizontal.out * channels;
  const int64_t stride = job.buffer_stride(), block_rows = job.block_rows(), out_h = job.vertical.out;
  const int64_t block_sources =
      std::min(job.vertical.in, (block_rows * job.vertical.down + job.vertical.taps) / job.vertical.up + 2);

  // Zero, and written only where x has samples: the margins stay zero from block to block.
  std::vector<T> buffer((job.separable ? block_rows : block_sources) * stride);
  T* const buffer_inside = buffer.data() + (inside.begin - columns.begin) * channels;
  const std::vector<T> zero(width);
  std::vector<T> sources(stored_wide ? 0 : block_sources * width), results(stored_wide ? 0 : block_rows * row_size);

  for (int64_t block = begin; block < end; ++block) {
    const int64_t plane = block / blocks_per_plane, first = block % blocks_per_plane * block_rows;
    const Range outputs{first, std::min(first + block_rows, out_h)};
    const S* const x = job.x + plane / job.planes_per_image * job.image_stride +
                       plane % job.planes_per_image * job.plane_stride + inside.begin * channels;
    S* const y = job.y + (plane * out_h + outputs.begin) * row_size;

    Rows<T> rows{nullptr, {0, job.vertical.in}, job.row_stride, zero.data()};
    T* out;
    if constexpr (stored_wide) {
      rows.data = x;
      out = y;
    } else {
      rows = {sources.data(), clip(reach_of(job.vertical, outputs), job.vertical.in), width, zero.data()};
      for (int64_t row = rows.range.begin; row < rows.range.end; ++row) {
        convert(x + row * job.row_stride, sources.data() + (row - rows.range.begin) * width, width);
      }
      out = results.data();
    }

    if (job.separable) {
      vertical(buffer_inside, stride, rows, job.along_columns, outputs, width);
      horizontal(out, buffer.data(), stride, outputs.size(), columns.begin, job.along_rows[0], job.horizontal.out,
                 channels, false);
    } else {
      const Range used = clip(reach_of(job.vertical, outputs), job.vertical.in);
      for (int64_t row = used.begin; row < used.end; ++row) {
        std::copy_n(rows(row), width, buffer_inside + (row - used.begin) * stride);
      }
      std::fill_n(out, outputs.size() * row_size, T(0));
      for (int64_t o = outputs.begin; o < outputs.end; ++o) {
        const Reach at = reach(job.vertical, o);
        for (int64_t k = 0; k < at.count; ++k) {
          const int64_t row = at.source + k;
          if (row < used.begin || row >= used.end) continue;
          horizontal(out + (o - outputs.begin) * row_size, buffer.data() + (row - used.begin) * stride, stride, 1,
                     columns.begin, job.along_rows[at.first_tap + k * job.vertical.up], job.horizontal.out, channels,
                     true);
        }
      }
    }
    if constexpr (!stored_wide) convert(out, y, outputs.size() * row_size);
  }
}

template <typename S>
void run(const Job<S>& job) {
  const int64_t block_rows = job.block_rows();
  const int64_t blocks_per_plane = (job.vertical.out + block_rows - 1) / block_rows;
  parallel_range(job.images * job.planes_per_image * blocks_per_plane,
                 block_rows * job.horizontal.out * job.channels,
                 [&](int64_t begin, int64_t end) { run_blocks(job, blocks_per_plane, begin, end); });
}

// ---- the filter ----------------------------------------------------------------------------------------------------

// Taps in the order they meet the signal, times the gain.
struct Filter {
  int64_t taps_h, taps_w;
  bool separable;
  std::vector<double> vertical, horizontal;  // when separable
  std::vector<double> taps;                  // [taps_h, taps_w], when not
};

// Splits an outer product into its factors. Every product must meet its tap to within `tolerance` of itself, a few
// roundings of the compute type, so that the result is as good as with the taps themselves.
bool factor(const std::vector<double>& taps, Filter& filter, double tolerance) {
  const int64_t h = filter.taps_h, w = filter.taps_w;
  int64_t pivot = 0;
  for (int64_t i = 1; i < h * w; ++i) {
    if (std::abs(taps[i]) > std::abs(taps[pivot])) pivot = i;
  }
  const double scale = taps[pivot] == 0 ? 1 : taps[pivot];
  for (int64_t i = 0; i < h; ++i) filter.vertical.push_back(taps[i * w + pivot % w]);
  for (int64_t j = 0; j < w; ++j) filter.horizontal.push_back(taps[pivot / w * w + j] / scale);
  for (int64_t i = 0; i < h * w; ++i) {
    const double product = filter.vertical[i / w] * filter.horizontal[i % w];
    if (!(std::abs(product - taps[i]) <= tolerance * std::abs(taps[i]))) return false;
  }
  return true;
}

Filter read_filter(const Tensor& f, bool flip, double gain, bool wide) {
  const bool is_double = f.scalar_type() == ScalarType::Double;
  const auto at = [&](int64_t offset) {
    return is_double ? static_cast<const double*>(f.const_data_ptr())[offset]
                     : static_cast<double>(static_cast<const float*>(f.const_data_ptr())[offset]);
  };
  const int64_t h = f.size(0), w = f.size(f.dim() - 1), stride_h = f.stride(0), stride_w = f.stride(f.dim() - 1);
  Filter filter{h, w, true, {}, {}, {}};
  if (f.dim() == 1) {
    for (int64_t i = 0; i < h; ++i) filter.horizontal.push_back(at((flip ? i : h - 1 - i) * stride_h));
    filter.vertical = filter.horizontal;
  } else {
    for (int64_t i = 0; i < h; ++i) {
      for (int64_t j = 0; j < w; ++j) {
        filter.taps.push_back(at((flip ? i : h - 1 - i) * stride_h + (flip ? j : w - 1 - j) * stride_w));
      }
    }
    const double rounding = wide ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
    filter.separable = factor(filter.taps, filter, 8 * rounding);
  }
  for (double& tap : filter.vertical) tap *= gain;
  for (double& tap : filter.taps) tap *= gain;
  return filter;
}

Tensor upfirdn2d_cpu(const Tensor& x_any, const Tensor& f, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                     int64_t pad_x, int64_t pad_y, int64_t out_h, int64_t out_w, bool flip_filter, double gain) {
  using torch::headeronly::MemoryFormat;
  STD_TORCH_CHECK(x_any.dim() == 4, "upfirdn2d: x must be [N, C, H, W]");
  STD_TORCH_CHECK((f.dim() == 1 || f.dim() == 2) && f.numel() > 0, "upfirdn2d: f must be [k] or [kh, kw]");
  STD_TORCH_CHECK(f.scalar_type() == ScalarType::Float || f.scalar_type() == ScalarType::Double,
                  "upfirdn2d: f must be float32 or float64");
  STD_TORCH_CHECK(up_x > 0 && up_y > 0 && down_x > 0 && down_y > 0 && out_h > 0 && out_w > 0,
                  "upfirdn2d: up, down and the output size must be positive");
  const bool channels_last = x_any.stride(1) == 1 && x_any.stride(3) != 1;
  const MemoryFormat format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const int64_t channels = x_any.size(1);
  const bool readable = x_any.stride(3) == (channels_last ? channels : 1) || x_any.size(3) == 1;
  const Tensor x = readable ? x_any : torch::stable::contiguous(x_any, format);

  const int64_t size[4] = {x.size(0), channels, out_h, out_w};
  Tensor y = torch::stable::empty({size, 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt, format);
  if (y.numel() == 0) return y;

  const Filter filter = read_filter(f, flip_filter, gain, x.scalar_type() == ScalarType::Double);
  const Axis vertical{x.size(2), out_h, up_y, down_y, pad_y, filter.taps_h};
  const Axis horizontal{x.size(3), out_w, up_x, down_x, pad_x, filter.taps_w};
  dispatch_floating(x.scalar_type(), "upfirdn2d", [&](auto zero) {
    using S = decltype(zero);
    using T = accumulate_t<S>;
    Job<S> job{static_cast<const S*>(x.const_data_ptr()),
               static_cast<S*>(y.mutable_data_ptr()),
               x.size(0),
               channels_last ? 1 : channels,
               x.stride(0),
               x.stride(1),
               x.stride(2),
               channels_last ? channels : 1,
               vertical,
               horizontal,
               filter.separable,
               {},
               {}};
    if (filter.separable) {
      job.along_columns = polyphase<T>(vertical, filter.vertical.data());
      job.along_rows = {polyphase<T>(horizontal, filter.horizontal.data())};
    } else {
      for (int64_t i = 0; i < filter.taps_h; ++i) {
        job.along_rows.push_back(polyphase<T>(horizontal, filter.taps.data() + i * filter.taps_w));
      }
    }
    run(job);
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) { m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d_cpu)); }

}  // namespace fastunlearn
