// FIR resampling of a batch on the CPU, block of rows by block of rows, for the ops whose formula contains it: what
// becomes of a row when it is read and of a block when it is written is the op's own (`Ends`).
//
// A filter that is an outer product (every filter made of 1-D taps) runs as a vertical pass into a cache-resident block
// of rows and a horizontal pass out of it; any other filter as one horizontal pass per tap row.
#pragma once

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

// ---- blocks of rows, planes, threads -------------------------------------------------------------------------------

// The whole call. A plane holds `channels` interleaved values per pixel: one channel of one image in NCHW, all of an
// image in channels_last.
template <typename S>
struct Job {
  using T = accumulate_t<S>;
  S* y;
  int64_t images, planes_per_image, channels;
  Axis vertical, horizontal;
  bool separable;
  bool fused = false;                         // both passes at once, by AVX-512
  bool sliding = false;                       // by slide_pixels, and finished there
  bool past_caches = false;                   // and their results, where they are the op's, written around the caches
  Polyphase<T> along_columns = {};            // used when separable
  std::vector<Polyphase<T>> along_rows = {};  // one when separable, else one per tap row
  int64_t block_rows, blocks_per_plane;

  Job(const Arguments& a, const Filter& filter)
      : y(static_cast<S*>(a.y.mutable_data_ptr())),
        images(a.x.size(0)),
        planes_per_image(a.channels_last ? 1 : a.x.size(1)),
        channels(a.channels_last ? a.x.size(1) : 1),
        vertical(a.vertical),
        horizontal(a.horizontal),
        separable(filter.separable) {
    if (separable) {
      along_columns = polyphase<T>(vertical, filter.vertical.data());
      along_rows = {polyphase<T>(horizontal, filter.horizontal.data())};
      if constexpr (std::is_same_v<T, float>) {
        // On short rows what it costs to begin one outweighs what is saved (benchmarks/bench_upfirdn2d.py, TRAINING).
        const bool long_rows = channels == 1 ? horizontal.in + horizontal.out > 64 : row_size() >= 4096;
        fused = long_rows && (channels == 1 ? fits_registers(along_columns, along_rows[0])
                                            : fits_pixels(along_columns, along_rows[0], channels));
        sliding = fused && channels > 1 && slides(along_rows[0]) && std::is_same_v<S, float>;
        past_caches = fused && channels > 1 && streams_lines(y, a.y.numel() * sizeof(S));
      }
    } else {
      for (int64_t i = 0; i < filter.taps_h; ++i) {
        along_rows.push_back(polyphase<T>(horizontal, filter.taps.data() + i * filter.taps_w));
      }
    }
    block_rows = rows_that_fit();
    blocks_per_plane = ceil_div(vertical.out, block_rows);
  }

  int64_t planes() const { return images * planes_per_image; }
  int64_t row_size() const { return horizontal.out * channels; }
  int64_t buffer_stride() const { return reach_of(horizontal, {0, horizontal.out}).size() * channels; }

  // A block is so many output rows of one plane that the rows between the passes stay in the L1 cache.
  int64_t rows_that_fit() const {
    if (fused) return std::clamp<int64_t>(4096 / row_size(), 1, vertical.out);
    const int64_t fit = 16384 / (buffer_stride() * static_cast<int64_t>(sizeof(T)));
    const int64_t rows = separable ? fit : (fit - vertical.taps / vertical.up) * vertical.up / vertical.down;
    return std::clamp<int64_t>(rows, 1, vertical.out);
  }
  Range outputs(int64_t part) const { return {part * block_rows, std::min((part + 1) * block_rows, vertical.out)}; }
  // The rows of x that a block meets.
  Range needed(int64_t part) const { return clip(reach_of(vertical, outputs(part)), vertical.in); }
  // The rows of x that count as the block's: every row belongs to one block, met by it or not.
  Range owned(int64_t part) const {
    return {part == 0 ? 0 : needed(part - 1).end, part + 1 == blocks_per_plane ? vertical.in : needed(part).end};
  }
};

// One block, by image, plane within it, and part of that.
struct Block {
  int64_t image, plane, part;
};

// What a thread keeps between blocks. The margins of `buffer`, where x has no samples, are zero and stay so.
template <typename S>
struct Scratch {
  using T = typename Job<S>::T;
  Range met, exist;       // samples of a row that outputs meet, and those of them that x has
  int64_t width, stride;  // values of a row of x, and of a row of the buffer
  LineVector<T> buffer, zero, sources, results;
  T* buffer_inside;
  int64_t plane = -1;  // of the call; whose rows `loaded` the sources hold
  Range loaded{0, 0};

  Scratch(const Job<S>& job, bool loads, bool finishes)
      : met(reach_of(job.horizontal, {0, job.horizontal.out})),
        exist(clip(met, job.horizontal.in)),
        width(job.horizontal.in * job.channels),
        stride(job.buffer_stride()),
        zero(width) {
    const int64_t rows = job.block_rows;
    const int64_t source_rows = (rows * job.vertical.down + job.vertical.taps) / job.vertical.up + 2;  // met by a block
    if (!job.fused) {
      buffer.resize((job.separable ? rows : source_rows) * stride + 1);  // Decimate may read one value further
      buffer_inside = buffer.data() + (exist.begin - met.begin) * job.channels;
    }
    if (loads) sources.resize((source_rows + 1) * width);
    if (finishes) results.resize(rows * job.row_size());
  }
};

// The rows that a block meets, as `ends` gives them; those that the block before it met as well are there already.
template <typename S, typename Ends>
Rows<typename Job<S>::T> load_rows(const Job<S>& job, const Ends& ends, Scratch<S>& scratch, const Block& block,
                                   Range outputs) {
  const Range needed = clip(reach_of(job.vertical, outputs), job.vertical.in), owned = job.owned(block.part);
  const int64_t plane = block.image * job.planes_per_image + block.plane;
  Range& loaded = scratch.loaded;
  if (scratch.plane != plane || needed.begin < loaded.begin || needed.begin > loaded.end) {
    loaded = {needed.begin, needed.begin};
    scratch.plane = plane;
  }
  auto* const sources = scratch.sources.data();
  std::copy(sources + (needed.begin - loaded.begin) * scratch.width,
            sources + (loaded.end - loaded.begin) * scratch.width, sources);
  const int64_t fresh = std::max(loaded.end, needed.begin), own = std::clamp(owned.begin, fresh, needed.end);
  const auto load = [&](Range range, bool is_owned) {
    if (range.size() > 0) ends.load(block, range, is_owned, sources + (range.begin - needed.begin) * scratch.width);
  };
  load({fresh, own}, false);
  load({own, needed.end}, true);
  loaded = needed;
  if constexpr (Ends::counts) {
    auto* const spare = sources + needed.size() * scratch.width;
    for (int64_t row = owned.begin; row < owned.end; ++row) {
      if (row < needed.begin || row >= needed.end) ends.load(block, {row, row + 1}, true, spare);
    }
  }
  return {sources, needed, scratch.width, scratch.zero.data()};
}

// Output rows `outputs`, at most block_rows of them, from the rows that they meet.
template <typename S>
void filter_rows(const Job<S>& job, Scratch<S>& scratch, const Rows<typename Job<S>::T>& rows, Range outputs,
                 typename Job<S>::T* out, bool past_caches) {
  using T = typename Job<S>::T;
  const Axis& vertical_axis = job.vertical;
  const int64_t out_w = job.horizontal.out, row_size = job.row_size();
  if (job.fused) {
    if constexpr (std::is_same_v<T, float>) {
      const Polyphase<T>& along_row = job.along_rows[0];
      if (job.channels == 1) {
        filter_in_registers(out, rows, job.horizontal.in, job.along_columns, along_row, outputs, out_w);
      } else {
        filter_pixels(out, rows, job.horizontal.in, job.along_columns, along_row, outputs, out_w, job.channels,
                      past_caches);
      }
    }
    return;
  }
  Rows<T> inside = rows;
  inside.data += scratch.exist.begin * job.channels;
  const int64_t width = scratch.exist.size() * job.channels, first = scratch.met.begin;
  if (job.separable) {
    vertical(scratch.buffer_inside, scratch.stride, inside, job.along_columns, outputs, width);
    horizontal(out, row_size, scratch.buffer.data(), scratch.stride, outputs.size(), first, job.along_rows[0], out_w,
               job.channels, false);
    return;
  }
  const Range met = reach_of(vertical_axis, outputs);
  for (int64_t row = met.begin; row < met.end; ++row) {
    std::copy_n(inside(row), width, scratch.buffer_inside + (row - met.begin) * scratch.stride);
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
      horizontal(to, period * row_size, from + k * scratch.stride, step * scratch.stride, m.size(), first,
                 job.along_rows[at.first_tap + k * vertical_axis.up], out_w, job.channels, k > 0);
    }
  }
}

// One block of outputs.
template <typename S, typename Ends>
void run_block(const Job<S>& job, const Ends& ends, Scratch<S>& scratch, const Block& block) {
  using T = typename Job<S>::T;
  const Range outputs = job.outputs(block.part);
  S* const y =
      job.y + ((block.image * job.planes_per_image + block.plane) * job.vertical.out + outputs.begin) * job.row_size();

  Rows<T> rows;
  if constexpr (Ends::loads) {
    rows = load_rows(job, ends, scratch, block, outputs);
  } else {
    rows = {ends.plane(block), {0, job.vertical.in}, ends.row_stride(), scratch.zero.data()};
  }
  if constexpr (std::is_same_v<S, float>) {
    if (job.sliding) {
      slide_pixels(y, rows, job.horizontal.in, job.along_columns, job.along_rows[0], outputs, job.horizontal.out,
                   job.channels, job.past_caches, ends.vectors(block, outputs));
      return;
    }
  }

  T* out;
  if constexpr (Ends::finishes) {
    out = scratch.results.data();
  } else {
    out = y;
  }
  filter_rows(job, scratch, rows, outputs, out, job.past_caches && !Ends::finishes);
  if constexpr (Ends::finishes) ends.finish(block, outputs, out, y);
}

// All of them. `Ends` says what the op adds to the filter:
//   loads      a block's rows are read by load(block, rows, owned, to), every owned row once, in order within a plane;
//              else plane(block) and row_stride() say where they lie
//   counts     every row of x is to be loaded once as `owned`, even if no output meets it
//   finishes   finish(block, outputs, from, y) writes the block's outputs; else the filter does
// vectors(block, outputs) is the same as an end of slide_pixels.
template <typename S, typename Ends>
void run(const Job<S>& job, const Ends& ends) {
  const int64_t per_plane = job.blocks_per_plane;
  parallel_range(job.planes() * per_plane, job.block_rows * job.row_size(), [&](int64_t begin, int64_t end) {
    Scratch<S> scratch(job, Ends::loads, Ends::finishes);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / per_plane;
      run_block(job, ends, scratch, {plane / job.planes_per_image, plane % job.planes_per_image, i % per_plane});
    }
    if (job.past_caches) end_streams();
  });
}

// x as it is, or copied so that the innermost dimension is dense.
inline Tensor readable(const Tensor& x, bool channels_last) {
  if (x.stride(3) == (channels_last ? x.size(1) : 1) || x.size(3) == 1) return x;
  return torch::stable::contiguous(x, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace
}  // namespace fastunlearn::upfirdn2d
