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

// V elements at an address of any alignment. Explicit vectors, because gcc guards the plain loops against aliasing at
// run time and leaves short ones scalar, and planes of 4² to 32² pixels have only short ones.
template <typename T, int V>
struct VectorOf {
  typedef T type __attribute__((vector_size(V * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <typename T, int V>
using Vector = typename VectorOf<T, V>::type;

template <int V, typename T>
INLINE const Vector<T, V>& load(const T* p) {
  return *reinterpret_cast<const Vector<T, V>*>(p);
}

template <int V, bool Add, typename T>
INLINE void store(T* p, const Vector<T, V>& value) {
  auto& to = *reinterpret_cast<Vector<T, V>*>(p);
  to = Add ? to + value : value;
}

// The elements First, First + 2, … of a followed by b.
template <int First, int V, typename T, size_t... I>
INLINE void every_second(Vector<T, V>& out, const Vector<T, V>& a, const Vector<T, V>& b, std::index_sequence<I...>) {
  out = __builtin_shufflevector(a, b, (First + 2 * static_cast<int>(I))...);
}

// a[0], b[0], a[1], b[1], … from element First · V of that sequence on.
template <int First, int V, typename T, size_t... I>
INLINE void alternate(Vector<T, V>& out, const Vector<T, V>& a, const Vector<T, V>& b, std::index_sequence<I...>) {
  out = __builtin_shufflevector(a, b, static_cast<int>(I % 2 * V + First * V / 2 + I / 2)...);
}

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
    for_blocks<(V > 4 ? V / 2 : 1), Overlap>(c, n, body);
  }
}

// out(i)[m] = Σ_k weights[k] · row(i, k)[m] for rows 0 ≤ i < rows of n values.
struct Sum {
  template <int Bytes, int Taps, bool Add, typename T, typename Row>
  static INLINE void run(int64_t first, T* out, int64_t out_stride, int64_t rows, const Row& row, const T* weights,
                         int64_t n) {
    T w[Taps];
    for (int k = 0; k < Taps; ++k) w[k] = weights[first + k];
    for (int64_t i = 0; i < rows; ++i, out += out_stride) {
      const T* from[Taps];
      for (int k = 0; k < Taps; ++k) from[k] = row(i, first + k);
      for_blocks<Bytes / sizeof(T), !Add>(0, n, [&](auto block, int64_t m) INLINE_LAMBDA {
        constexpr int V = block;
        Vector<T, V> sum = w[0] * load<V>(from[0] + m);
        for (int k = 1; k < Taps; ++k) sum += w[k] * load<V>(from[k] + m);
        store<V, Add>(out + m, sum);
      });
    }
  }
};

// Upsampling by two along rows: out[2m + r] = Σ_k weights_r[k] · row_r[m + k], 0 ≤ m < n.
struct Interleave {
  template <int Bytes, int Taps, bool Add, typename T>
  static INLINE void run(int64_t first, T* out, int64_t out_stride, int64_t rows, const T* row0, const T* row1,
                         int64_t row_stride, const T* weights0, const T* weights1, int64_t n) {
    T w0[Taps], w1[Taps];
    for (int k = 0; k < Taps; ++k) {
      w0[k] = weights0[first + k];
      w1[k] = weights1[first + k];
    }
    row0 += first;
    row1 += first;
    for (int64_t i = 0; i < rows; ++i, out += out_stride, row0 += row_stride, row1 += row_stride) {
      for_blocks<Bytes / sizeof(T), !Add>(0, n, [&](auto block, int64_t m) INLINE_LAMBDA {
        constexpr int V = block;
        Vector<T, V> even = w0[0] * load<V>(row0 + m), odd = w1[0] * load<V>(row1 + m);
        for (int k = 1; k < Taps; ++k) {
          even += w0[k] * load<V>(row0 + m + k);
          odd += w1[k] * load<V>(row1 + m + k);
        }
        if constexpr (V == 1) {
          store<V, Add>(out + 2 * m, even);
          store<V, Add>(out + 2 * m + 1, odd);
        } else {
          Vector<T, V> low, high;
          alternate<0, V, T>(low, even, odd, std::make_index_sequence<V>());
          alternate<1, V, T>(high, even, odd, std::make_index_sequence<V>());
          store<V, Add>(out + 2 * m, low);
          store<V, Add>(out + 2 * m + V, high);
        }
      });
    }
  }
};

// Downsampling by two along rows: out[m] = Σ_k weights[k] · row[2m + k], 0 ≤ m < n. An odd number of taps reads, and
// ignores, the value after the last one.
struct Decimate {
  template <int Bytes, int Taps, bool Add, typename T>
  static INLINE void run(int64_t first, T* out, int64_t out_stride, int64_t rows, const T* row, int64_t row_stride,
                         const T* weights, int64_t n) {
    T w[Taps];
    for (int k = 0; k < Taps; ++k) w[k] = weights[first + k];
    row += first;
    for (int64_t i = 0; i < rows; ++i, out += out_stride, row += row_stride) {
      for_blocks<Bytes / sizeof(T), !Add>(0, n, [&](auto block, int64_t m) INLINE_LAMBDA {
        constexpr int V = block;
        Vector<T, V> sum{}, value;
        for (int k = 0; k < Taps; ++k) {
          const T* const from = row + 2 * m + k / 2 * 2;
          if constexpr (V == 1) {
            value = load<1>(from + k % 2);
          } else if (k % 2 == 0) {
            every_second<0, V, T>(value, load<V>(from), load<V>(from + V), std::make_index_sequence<V>());
          } else {
            every_second<1, V, T>(value, load<V>(from), load<V>(from + V), std::make_index_sequence<V>());
          }
          sum = k == 0 ? w[k] * value : sum + w[k] * value;
        }
        store<V, Add>(out + m, sum);
      });
    }
  }
};

// Runs a filter in passes of at most four taps, so that their number is known at compile time. Every pass but the
// first adds to what is there, as does the first if `add` says so.
template <int Bytes, typename Pass, typename... Args>
INLINE void in_passes(int64_t taps, bool add, const Args&... args) {
  for (int64_t first = 0; first < taps; first += 4, add = true) {
    const int64_t left = taps - first;
    if (left >= 4) {
      add ? Pass::template run<Bytes, 4, true>(first, args...) : Pass::template run<Bytes, 4, false>(first, args...);
    } else if (left == 3) {
      add ? Pass::template run<Bytes, 3, true>(first, args...) : Pass::template run<Bytes, 3, false>(first, args...);
    } else if (left == 2) {
      add ? Pass::template run<Bytes, 2, true>(first, args...) : Pass::template run<Bytes, 2, false>(first, args...);
    } else {
      add ? Pass::template run<Bytes, 1, true>(first, args...) : Pass::template run<Bytes, 1, false>(first, args...);
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
template <int Bytes, typename T>
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
    in_passes<Bytes, Sum>(phase.weights.size(), false, to, to_stride, end - begin,
                   [&](int64_t i, int64_t k) INLINE_LAMBDA { return rows(source + i * step + k); },
                   phase.weights.data(), n);
  }
}

// `rows` rows of the horizontal pass: out_w pixels of `channels` values, from rows whose first pixel is sample `begin`.
template <int Bytes, typename T>
INLINE void horizontal_pass(T* out, const T* buffer, int64_t stride, int64_t rows, int64_t begin,
                            const Polyphase<T>& filter, int64_t out_w, int64_t channels, bool add) {
  const int64_t period = filter.period, step = filter.step, out_stride = out_w * channels;
  const Phase<T>& even = filter.phases[0];
  const Phase<T>& odd = filter.phases[period - 1];
  const int64_t taps = even.weights.size();
  const T* const first = buffer + (even.source - begin) * channels;
  int64_t done = 0;
  if (taps > 0 && period == 1 && step == 1) {
    in_passes<Bytes, Sum>(taps, add, out, out_stride, rows,
                   [=](int64_t i, int64_t k) INLINE_LAMBDA { return first + i * stride + k * channels; },
                   even.weights.data(), out_stride);
    return;
  }
  if (taps > 0 && channels == 1 && period == 1 && step == 2) {
    in_passes<Bytes, Decimate>(taps, add, out, out_stride, rows, first, stride, even.weights.data(), out_w);
    return;
  }
  if (taps > 0 && channels == 1 && period == 2 && step == 1 && odd.weights.size() == even.weights.size()) {
    in_passes<Bytes, Interleave>(taps, add, out, out_stride, rows, first, buffer + (odd.source - begin), stride,
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
      in_passes<Bytes, Sum>(phase.weights.size(), add, to, period * channels, count - m,
                     [=](int64_t j, int64_t k) INLINE_LAMBDA { return from + ((m + j) * step + k) * channels; },
                     phase.weights.data(), channels);
    }
  }
}

// One wheel for every x86-64: a copy for each register size, and the loader picks. (FASTUNLEARN_CLONES would give all of
// them the same vectors.)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_TARGET(define)                             \
  __attribute__((target("arch=x86-64-v4"))) define(64)      \
  __attribute__((target("arch=x86-64-v3"))) define(32)      \
  __attribute__((target("default"))) define(16)
#else
#define FOR_EACH_TARGET(define) define(16)
#endif

#define VERTICAL(bytes, T)                                                                                      \
  void vertical(T* out, int64_t out_stride, const Rows<T>& rows, const Polyphase<T>& filter, Range outputs,     \
                int64_t n) {                                                                                    \
    vertical_pass<bytes>(out, out_stride, rows, filter, outputs, n);                                            \
  }
#define HORIZONTAL(bytes, T)                                                                                    \
  void horizontal(T* out, const T* buffer, int64_t stride, int64_t rows, int64_t begin,                         \
                  const Polyphase<T>& filter, int64_t out_w, int64_t channels, bool add) {                      \
    horizontal_pass<bytes>(out, buffer, stride, rows, begin, filter, out_w, channels, add);                     \
  }
#define VERTICAL_FLOAT(bytes) VERTICAL(bytes, float)
#define VERTICAL_DOUBLE(bytes) VERTICAL(bytes, double)
#define HORIZONTAL_FLOAT(bytes) HORIZONTAL(bytes, float)
#define HORIZONTAL_DOUBLE(bytes) HORIZONTAL(bytes, double)
FOR_EACH_TARGET(VERTICAL_FLOAT)
FOR_EACH_TARGET(VERTICAL_DOUBLE)
FOR_EACH_TARGET(HORIZONTAL_FLOAT)
FOR_EACH_TARGET(HORIZONTAL_DOUBLE)

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
  std::vector<T> buffer((job.separable ? block_rows : block_sources) * stride + 1);
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
