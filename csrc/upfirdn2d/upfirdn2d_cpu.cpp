// upfirdn2d on the CPU. A filter that is an outer product (every filter made of 1-D taps) runs as a vertical pass into
// a cache-resident block of rows and a horizontal pass out of it; any other filter as one horizontal pass per tap row.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "upfirdn2d/pixels_avx512.h"
#include "upfirdn2d/rows_avx512.h"
#include "upfirdn2d/upfirdn2d_arguments.h"
#include "upfirdn2d/upfirdn2d_passes.h"

namespace fastunlearn::upfirdn2d {
namespace {

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
  bool fused, past_caches;               // both passes at once, by AVX-512; results written past the caches
  Polyphase<T> along_columns;            // used when separable
  std::vector<Polyphase<T>> along_rows;  // one when separable, else one per tap row

  Range columns() const { return reach_of(horizontal, {0, horizontal.out}); }
  int64_t buffer_stride() const { return columns().size() * channels; }

  // A block is so many output rows of one plane that the rows between the passes stay in the L1 cache.
  int64_t block_rows() const {
    if (fused) return std::clamp<int64_t>(16384 / (horizontal.out * channels), 1, vertical.out);
    const int64_t fit = 16384 / (buffer_stride() * static_cast<int64_t>(sizeof(T)));
    const int64_t rows = separable ? fit : (fit - vertical.taps / vertical.up) * vertical.up / vertical.down;
    return std::clamp<int64_t>(rows, 1, vertical.out);
  }
  int64_t blocks_per_plane() const { return ceil_div(vertical.out, block_rows()); }
};

// What a thread keeps between blocks. The margins of `buffer`, where x has no samples, are zero and stay so.
template <typename S>
struct Scratch {
  using T = typename Job<S>::T;
  Range columns, inside;  // samples of a row that are met, and those of them that exist
  int64_t width, stride;  // values of a row inside x, and of a row of the buffer
  std::vector<T> buffer, zero, sources, results;
  T* buffer_inside;

  explicit Scratch(const Job<S>& job)
      : columns(job.columns()),
        inside(job.fused ? Range{0, job.horizontal.in} : clip(columns, job.horizontal.in)),
        width(inside.size() * job.channels),
        stride(job.buffer_stride()),
        zero(width) {
    const int64_t rows = job.block_rows();
    const int64_t source_rows = (rows * job.vertical.down + job.vertical.taps) / job.vertical.up + 2;  // met by a block
    if (!job.fused) {
      buffer.resize((job.separable ? rows : source_rows) * stride + 1);  // Decimate may read one value further
      buffer_inside = buffer.data() + (inside.begin - columns.begin) * job.channels;
    }
    if (!std::is_same_v<S, T>) {
      sources.resize(source_rows * width);
      results.resize(rows * job.horizontal.out * job.channels);
    }
  }
};

// Output rows `outputs` of one plane of x, to y.
template <typename S>
void run_block(const Job<S>& job, Scratch<S>& scratch, const S* x, S* y, Range outputs) {
  using T = typename Job<S>::T;
  const Axis& vertical_axis = job.vertical;
  const int64_t out_w = job.horizontal.out, row_size = out_w * job.channels;
  x += scratch.inside.begin * job.channels;

  Rows<T> rows{nullptr, {0, vertical_axis.in}, job.row_stride, scratch.zero.data()};
  T* out;
  if constexpr (std::is_same_v<S, T>) {
    rows.data = x;
    out = y;
  } else {
    rows = {scratch.sources.data(), clip(reach_of(vertical_axis, outputs), vertical_axis.in), scratch.width,
            scratch.zero.data()};
    T* to = scratch.sources.data();
    for (int64_t row = rows.range.begin; row < rows.range.end; ++row, to += scratch.width) {
      convert(x + row * job.row_stride, to, scratch.width);
    }
    out = scratch.results.data();
  }

  if (job.fused) {
    if constexpr (std::is_same_v<T, float>) {
      const Polyphase<T>& along_row = job.along_rows[0];
      if (job.channels == 1) {
        filter_in_registers(out, rows, job.horizontal.in, job.along_columns, along_row, outputs, out_w);
      } else {
        filter_pixels(out, rows, job.horizontal.in, job.along_columns, along_row, outputs, out_w, job.channels,
                      job.past_caches);
      }
    }
  } else if (job.separable) {
    vertical(scratch.buffer_inside, scratch.stride, rows, job.along_columns, outputs, scratch.width);
    horizontal(out, row_size, scratch.buffer.data(), scratch.stride, outputs.size(), scratch.columns.begin,
               job.along_rows[0], out_w, job.channels, false);
  } else {
    const Range met = reach_of(vertical_axis, outputs);
    for (int64_t row = met.begin; row < met.end; ++row) {
      std::copy_n(rows(row), scratch.width, scratch.buffer_inside + (row - met.begin) * scratch.stride);
    }
    const int64_t common = std::gcd(vertical_axis.up, vertical_axis.down);
    const int64_t period = vertical_axis.up / common, step = vertical_axis.down / common;
    for (int64_t r = 0; r < period; ++r) {
      const Range m = of_phase(outputs, period, r);
      const Reach at = reach(vertical_axis, r);
      T* const to = out + (m.begin * period + r - outputs.begin) * row_size;
      const T* const from = scratch.buffer.data() + (m.begin * step + at.source - met.begin) * scratch.stride;
      if (at.count == 0) {
        for (int64_t i = 0; i < m.size(); ++i) std::fill_n(to + i * period * row_size, row_size, T(0));
      }
      for (int64_t k = 0; k < at.count; ++k) {
        horizontal(to, period * row_size, from + k * scratch.stride, step * scratch.stride, m.size(),
                   scratch.columns.begin, job.along_rows[at.first_tap + k * vertical_axis.up], out_w, job.channels,
                   k > 0);
      }
    }
  }
  if constexpr (!std::is_same_v<S, T>) convert(out, y, outputs.size() * row_size);
}

template <typename S>
void run(const Job<S>& job) {
  const int64_t rows = job.block_rows(), per_plane = job.blocks_per_plane(), out_h = job.vertical.out;
  const int64_t row_size = job.horizontal.out * job.channels, planes = job.images * job.planes_per_image;
  parallel_range(planes * per_plane, rows * row_size, [&](int64_t begin, int64_t end) {
    Scratch<S> scratch(job);
    int64_t part = begin % per_plane, plane = begin / per_plane % job.planes_per_image;
    const S* image = job.x + begin / per_plane / job.planes_per_image * job.image_stride;
    S* y = job.y + (begin / per_plane * out_h + part * rows) * row_size;
    for (int64_t block = begin; block < end; ++block) {
      const Range outputs{part * rows, std::min(part * rows + rows, out_h)};
      run_block(job, scratch, image + plane * job.plane_stride, y, outputs);
      y += outputs.size() * row_size;
      if (++part < per_plane) continue;
      part = 0;
      if (++plane < job.planes_per_image) continue;
      plane = 0;
      image += job.image_stride;
    }
    if (job.past_caches) end_streams();
  });
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

template <typename S>
Job<S> plan(const Arguments& a, const Tensor& x, const Filter& filter) {
  using T = accumulate_t<S>;
  const int64_t channels = x.size(1);
  Job<S> job{static_cast<const S*>(x.const_data_ptr()),
             static_cast<S*>(a.y.mutable_data_ptr()),
             x.size(0),
             a.channels_last ? 1 : channels,
             x.stride(0),
             x.stride(1),
             x.stride(2),
             a.channels_last ? channels : 1,
             a.vertical,
             a.horizontal,
             filter.separable,
             false,
             false,
             {},
             {}};
  if (filter.separable) {
    job.along_columns = polyphase<T>(a.vertical, filter.vertical.data());
    job.along_rows = {polyphase<T>(a.horizontal, filter.horizontal.data())};
    if constexpr (std::is_same_v<T, float>) {
      job.fused = job.channels == 1 ? fits_registers(job.along_columns, job.along_rows[0])
                                    : fits_pixels(job.along_columns, job.along_rows[0], job.channels);
      job.past_caches = job.fused && job.channels > 1 && std::is_same_v<S, T> && streams(a.y.numel() * sizeof(T)) &&
                        reinterpret_cast<uintptr_t>(job.y) % 64 == 0;
    }
  } else {
    for (int64_t i = 0; i < filter.taps_h; ++i) {
      job.along_rows.push_back(polyphase<T>(a.horizontal, filter.taps.data() + i * filter.taps_w));
    }
  }
  return job;
}

Tensor upfirdn2d_cpu(const Tensor& x, const Tensor& f, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                     int64_t pad_x, int64_t pad_y, int64_t out_h, int64_t out_w, bool flip_filter, double gain) {
  const Arguments a = arguments(x, f, up_x, up_y, down_x, down_y, pad_x, pad_y, out_h, out_w, flip_filter, gain);
  if (a.y.numel() == 0) return a.y;
  const bool dense_rows = x.stride(3) == (a.channels_last ? x.size(1) : 1) || x.size(3) == 1;
  const Tensor readable = dense_rows ? x
                                     : torch::stable::contiguous(
                                           x, a.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const Filter filter = read_filter(f, flip_filter, gain, x.scalar_type() == ScalarType::Double);
  dispatch_floating(x.scalar_type(), "upfirdn2d", [&](auto zero) { run(plan<decltype(zero)>(a, readable, filter)); });
  return a.y;
}

}  // namespace
}  // namespace fastunlearn::upfirdn2d

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("upfirdn2d", TORCH_BOX(&fastunlearn::upfirdn2d::upfirdn2d_cpu));
}
