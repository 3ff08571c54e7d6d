// filtered_lrelu on the CPU: as many rows of the upsampled image as a block of results meets lie between the filters,
// and no more.
#include <torch/csrc/stable/library.h>

#include "common/block_cache.h"
#include "common/checks.h"
#include "common/tiles_cpu.h"
#include "upfirdn2d/blocks_cpu.h"

namespace fastunlearn::filtered_lrelu {
namespace {

using upfirdn2d::Axis;
using upfirdn2d::Block;
using upfirdn2d::Job;
using upfirdn2d::Range;
using upfirdn2d::Rows;
using upfirdn2d::Scratch;

// ---- between the filters -------------------------------------------------------------------------------------------

template <typename R>
struct Activation {
  R gain, slope, clamp;  // a negative clamp is none
};

template <bool Clamps, typename R>
INLINE R value(R u, const Activation<R>& p) {
  const R y = p.gain * (u > 0 ? u : p.slope * u);
  if (!Clamps) return y;
  return y > p.clamp ? p.clamp : y < -p.clamp ? -p.clamp : y;
}

template <bool Clamps, typename R>
INLINE R slope(R u, const Activation<R>& p) {
  const R here = u > 0 ? p.gain : p.gain * p.slope;
  if (!Clamps) return here;
  const R y = here * u;
  return (y < 0 ? -y : y) < p.clamp ? here : R(0);
}

template <bool Clamps, typename R>
FASTUNLEARN_CLONES static void activate(R* u, int64_t n, Activation<R> p) {
  for (int64_t i = 0; i < n; ++i) u[i] = value<Clamps>(u[i], p);
}

template <bool Clamps, typename R>
FASTUNLEARN_CLONES static void weigh(R* v, const R* u, int64_t n, Activation<R> p) {
  FASTUNLEARN_NO_DEPENDENCE
  for (int64_t i = 0; i < n; ++i) v[i] *= slope<Clamps>(u[i], p);
}

template <typename To, typename From>
FASTUNLEARN_CLONES static void add(const From* from, To b, To* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]) + b;
}

// ---- a tensor through a filter -------------------------------------------------------------------------------------

// A filter with the image sizes on its either side, as it is or read the other way round.
struct Resampling {
  Tensor f;
  Axis vertical, horizontal;
  bool flip;
  double gain;

  static Axis reversed(const Axis& a) { return {a.out, a.in, a.down, a.up, a.taps - 1 - a.pad, a.taps}; }
  Resampling adjoint() const { return {f, reversed(vertical), reversed(horizontal), !flip, gain}; }

  template <typename S>
  Job<S> job(const Tensor& x, const Tensor& y, bool channels_last) const {
    return Job<S>({x, f, y, channels_last, flip, gain, vertical, horizontal},
                  upfirdn2d::read_filter(f, flip, gain, std::is_same_v<S, double>));
  }
};

// x, in the memory format of the result.
Tensor in_format(const Tensor& x, bool channels_last) {
  if (upfirdn2d::is_channels_last(x) == channels_last) return upfirdn2d::readable(x, channels_last);
  return torch::stable::contiguous(
      x, channels_last ? upfirdn2d::MemoryFormat::ChannelsLast : upfirdn2d::MemoryFormat::Contiguous);
}

// Rows between the filters, of x + b through the first one. A thread's own.
template <typename S>
class Resampled {
 public:
  using T = accumulate_t<S>;

  Resampled(const Job<S>& job, const Tensor& x, const S* b) : job_(job), x_(x), b_(b), scratch_(job, false, false) {}

  // At most job.block_rows.
  void rows(const Block& block, Range wanted, T* to) { filter_rows(job_, scratch_, plane(block), wanted, to, false); }

 private:
  Rows<T> plane(const Block& block) {
    const Range all{0, job_.vertical.in};
    const S* const from = static_cast<const S*>(x_.const_data_ptr()) + block.image * x_.stride(0) +
                          (job_.channels == 1 ? block.plane * x_.stride(1) : 0);
    if constexpr (std::is_same_v<S, T>) {
      if (!b_) return {from, all, x_.stride(2), scratch_.zero.data()};
    }
    const int64_t width = scratch_.width, number = block.image * job_.planes_per_image + block.plane;
    if (number != number_) {
      number_ = number;
      plane_.resize(all.end * width);
      for (int64_t row = 0; row < all.end; ++row) {
        shift(from + row * x_.stride(2), plane_.data() + row * width, block.plane);
      }
    }
    return {plane_.data(), all, width, scratch_.zero.data()};
  }

  void shift(const S* from, T* to, int64_t plane) const {
    const int64_t channels = job_.channels;
    if (!b_) {
      convert(from, to, scratch_.width);
    } else if (channels == 1) {
      add(from, static_cast<T>(b_[plane]), to, scratch_.width);
    } else {
      for (int64_t i = 0; i < scratch_.width; i += channels) {
        for (int64_t c = 0; c < channels; ++c) to[i + c] = static_cast<T>(from[i + c]) + static_cast<T>(b_[c]);
      }
    }
  }

  const Job<S>& job_;
  const Tensor& x_;
  const S* b_;
  Scratch<S> scratch_;
  LineVector<T> plane_;  // of x + b, where the rows of x are not what is filtered
  int64_t number_ = -1;
};

// What the second filter reads: rows of `values`, activated, or times the slopes where `sources` are.
template <typename S>
struct Between {
  using T = accumulate_t<S>;
  static constexpr bool loads = true, counts = false, finishes = !std::is_same_v<S, T>;
  Resampled<S>& values;
  Resampled<S>* sources;
  T* buffer;  // for `chunk` rows of sources
  int64_t chunk, width, out_width;
  Activation<T> p;

  template <bool Clamps>
  void load_chunk(const Block& block, Range rows, T* to) const {
    const int64_t n = rows.size() * width;
    values.rows(block, rows, to);
    if (sources) {
      sources->rows(block, rows, buffer);
      weigh<Clamps>(to, buffer, n, p);
    } else {
      activate<Clamps>(to, n, p);
    }
  }
  void load(const Block& block, Range rows, bool, T* to) const {
    for (int64_t begin = rows.begin; begin < rows.end; begin += chunk, to += chunk * width) {
      const Range part{begin, std::min(begin + chunk, rows.end)};
      p.clamp < 0 ? load_chunk<false>(block, part, to) : load_chunk<true>(block, part, to);
    }
  }
  upfirdn2d::AsItIs vectors(const Block&, Range) const { return {}; }
  void finish(const Block&, Range outputs, const T* from, S* y) const {
    if constexpr (finishes) convert(from, y, outputs.size() * out_width);
  }
};

// y = second(activation(first(values + b))), or second(slope(source_first(sources + b)) · first(values)).
struct Call {
  Tensor values;
  Resampling first, second;
  std::optional<Tensor> sources, b;
  Resampling source_first;
  double gain, slope, clamp;

  Tensor operator()() const {
    const Tensor& of_format = sources ? *sources : values;
    const bool channels_last = upfirdn2d::is_channels_last(of_format);
    const int64_t size[4] = {values.size(0), values.size(1), second.vertical.out, second.horizontal.out};
    const Tensor y = in_used_memory(torch::stable::empty(
        {size, 4}, values.scalar_type(), std::nullopt, values.device(), std::nullopt,
        channels_last ? upfirdn2d::MemoryFormat::ChannelsLast : upfirdn2d::MemoryFormat::Contiguous));
    if (y.numel() == 0) return y;
    const Tensor from = in_format(values, channels_last);
    const Tensor slopes_from = sources ? in_format(*sources, channels_last) : from;
    const Tensor biases = b ? torch::stable::contiguous(*b) : from;
    dispatch_floating(y.scalar_type(), "filtered_lrelu", [&](auto zero) {
      using S = decltype(zero);
      run<S>(y, from, slopes_from, b ? static_cast<const S*>(biases.const_data_ptr()) : nullptr, channels_last);
    });
    return y;
  }

  template <typename S>
  void run(const Tensor& y, const Tensor& from, const Tensor& slopes_from, const S* biases, bool channels_last) const {
    using T = accumulate_t<S>;
    const Job<S> job = second.job<S>(from, y, channels_last);
    Job<S> before = first.job<S>(from, y, channels_last);
    Job<S> before_slopes = source_first.job<S>(slopes_from, y, channels_last);
    const int64_t chunk = std::min(before.block_rows, before_slopes.block_rows), width = before.row_size();
    const Activation<T> p{static_cast<T>(gain), static_cast<T>(slope), static_cast<T>(clamp)};
    const int64_t per_plane = job.blocks_per_plane;
    parallel_range(job.planes() * per_plane, job.block_rows * job.row_size(), [&](int64_t begin, int64_t end) {
      Resampled<S> here(before, from, sources ? nullptr : biases);
      Resampled<S> slopes_here(before_slopes, slopes_from, biases);
      LineVector<T> buffer(sources ? chunk * width : 0);
      Scratch<S> scratch(job, true, Between<S>::finishes);
      const Between<S> ends{here, sources ? &slopes_here : nullptr, buffer.data(), chunk, width, job.row_size(), p};
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / per_plane;
        run_block(job, ends, scratch, {plane / job.planes_per_image, plane % job.planes_per_image, i % per_plane});
      }
      if (job.past_caches) end_streams();
    });
  }
};

// ---- the ops -------------------------------------------------------------------------------------------------------

struct Filters {
  Resampling up, down;

  Filters(const Tensor& x, const Tensor& fu, const Tensor& fd, const std::optional<Tensor>& b, int64_t up_factor,
          int64_t down_factor, int64_t pad_x, int64_t pad_y, int64_t mid_h, int64_t mid_w, int64_t out_h, int64_t out_w,
          bool flip) {
    const char* op = "filtered_lrelu";
    STD_TORCH_CHECK(x.dim() == 4 && x.size(2) > 0 && x.size(3) > 0, op, ": x must be [N, C, H, W]");
    for (const Tensor& f : {fu, fd}) {
      STD_TORCH_CHECK((f.dim() == 1 || f.dim() == 2) && f.numel() > 0, op, ": filters must be [k] or [kh, kw]");
      STD_TORCH_CHECK(f.scalar_type() == ScalarType::Float || f.scalar_type() == ScalarType::Double, op,
                      ": filters must be float32 or float64");
    }
    STD_TORCH_CHECK(up_factor > 0 && down_factor > 0 && mid_h > 0 && mid_w > 0 && out_h > 0 && out_w > 0, op,
                    ": up, down and the sizes must be positive");
    STD_TORCH_CHECK(!b || (b->dim() == 1 && b->size(0) == x.size(1)), op, ": b must be [C]");
    if (b) check_same_dtype_and_device(*b, x, op, "b");
    const auto square = static_cast<double>(up_factor * up_factor);
    up = {fu,
          {x.size(2), mid_h, up_factor, 1, pad_y, fu.size(0)},
          {x.size(3), mid_w, up_factor, 1, pad_x, fu.size(fu.dim() - 1)},
          flip,
          square};
    down = {fd,
            {mid_h, out_h, 1, down_factor, 0, fd.size(0)},
            {mid_w, out_w, 1, down_factor, 0, fd.size(fd.dim() - 1)},
            flip,
            1};
  }
};

Tensor filtered_lrelu_cpu(const Tensor& x, const Tensor& fu, const Tensor& fd, const std::optional<Tensor>& b,
                          int64_t up, int64_t down, int64_t pad_x, int64_t pad_y, int64_t mid_h, int64_t mid_w,
                          int64_t out_h, int64_t out_w, bool flip_filter, double gain, double slope, double clamp) {
  const Filters filters(x, fu, fd, b, up, down, pad_x, pad_y, mid_h, mid_w, out_h, out_w, flip_filter);
  return Call{x, filters.up, filters.down, std::nullopt, b, filters.up, gain, slope, clamp}();
}

Tensor filtered_lrelu_slope_cpu(const Tensor& v, const Tensor& x, const Tensor& fu, const Tensor& fd,
                                const std::optional<Tensor>& b, int64_t up, int64_t down, int64_t pad_x, int64_t pad_y,
                                int64_t mid_h, int64_t mid_w, int64_t out_h, int64_t out_w, bool flip_filter,
                                double gain, double slope, double clamp, bool adjoint) {
  const Filters filters(x, fu, fd, b, up, down, pad_x, pad_y, mid_h, mid_w, out_h, out_w, flip_filter);
  const Resampling first = adjoint ? filters.down.adjoint() : filters.up;
  const Resampling second = adjoint ? filters.up.adjoint() : filters.down;
  STD_TORCH_CHECK(v.dim() == 4 && v.size(0) == x.size(0) && v.size(1) == x.size(1) && v.size(2) == first.vertical.in &&
                      v.size(3) == first.horizontal.in,
                  "filtered_lrelu: v must have the size of x, or of the result");
  check_same_dtype_and_device(v, x, "filtered_lrelu", "v");
  return Call{v, first, second, x, b, filters.up, gain, slope, clamp}();
}

}  // namespace
}  // namespace fastunlearn::filtered_lrelu

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("filtered_lrelu", TORCH_BOX(&fastunlearn::filtered_lrelu::filtered_lrelu_cpu));
  m.impl("filtered_lrelu_slope", TORCH_BOX(&fastunlearn::filtered_lrelu::filtered_lrelu_slope_cpu));
}
