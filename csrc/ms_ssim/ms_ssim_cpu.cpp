// ms_ssim on the CPU. Forward and backward walk down a plane in steps of a few rows; what lies between two passes is a
// ring of rows that stays in the cache, never an image.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/launch.h"
#include "ms_ssim/ms_ssim_arguments.h"
#include "ms_ssim/ms_ssim_passes.h"

namespace fastunlearn::ms_ssim {
namespace {

// ---- loops over single rows ----------------------------------------------------------------------------------------

template <typename T>
FASTUNLEARN_CLONES void sum_and_difference(const T* x, const T* y, T* __restrict a, T* __restrict b, int64_t n,
                                           T shift) {
  for (int64_t i = 0; i < n; ++i) {
    a[i] = (x[i] - shift) + (y[i] - shift);
    b[i] = x[i] - y[i];
  }
}

// Σ loss over a row of means; the sums are many, in a fixed order, so that they become vectors.
template <bool Luminance, typename T>
FASTUNLEARN_CLONES double sum_of_losses(const T* a, const T* aa, const T* b, const T* bb, int64_t n, Formula<T> f) {
  constexpr int lanes = 32;
  T sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t at = i + lane;
      sums[lane] += loss<Luminance>(Means<T>{a[at], aa[at], b[at], bb[at]}, f);
    }
  }
  for (int lane = 0; i < n; ++i, ++lane) sums[lane] += loss<Luminance>(Means<T>{a[i], aa[i], b[i], bb[i]}, f);
  double total = 0;
  for (int lane = 0; lane < lanes; ++lane) total += sums[lane];
  return total;
}

template <bool Luminance, bool BothImages, typename T>
FASTUNLEARN_CLONES void row_of_slopes(const T* a, const T* aa, const T* b, const T* bb, T* __restrict by_x,
                                      T* __restrict by_aa, T* __restrict by_bb, T* __restrict by_y, int64_t n,
                                      Formula<T> f) {
  for (int64_t i = 0; i < n; ++i) {
    const Slopes<T> s = slopes<Luminance>(Means<T>{a[i], aa[i], b[i], bb[i]}, f);
    by_x[i] = s.x;
    by_aa[i] = s.aa;
    by_bb[i] = s.bb;
    if (BothImages) by_y[i] = s.y;
  }
}

// Gradients from filtered slopes and from what the scale below adds.
template <bool BothImages, typename T>
FASTUNLEARN_CLONES void row_of_gradients(const T* by_x, const T* by_aa, const T* by_bb, const T* by_y, const T* x,
                                         const T* y, const T* below_x, const T* below_y, T* __restrict grad_x,
                                         T* __restrict grad_y, int64_t n, T scale, T shift) {
  for (int64_t i = 0; i < n; ++i) {
    const T a = 2 * ((x[i] - shift) + (y[i] - shift)) * by_aa[i], b = 2 * (x[i] - y[i]) * by_bb[i];
    grad_x[i] = scale * (by_x[i] + (a + b)) + below_x[i];
    if (BothImages) grad_y[i] = scale * (by_y[i] + (a - b)) + below_y[i];
  }
}

template <typename T>
FASTUNLEARN_CLONES void add(const T* row0, const T* row1, T* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = row0[i] + row1[i];
}

template <typename T>
FASTUNLEARN_CLONES void quarter_of_pairs(const T* row, T* __restrict out, int64_t n) {
  for (int64_t o = 0; o < n; ++o) out[o] = T(0.25) * (row[2 * o] + row[2 * o + 1]);
}

template <typename T>
FASTUNLEARN_CLONES void quarter_to_pairs(const T* row, T* __restrict out, int64_t n) {
  for (int64_t o = 0; o < n; ++o) out[2 * o] = out[2 * o + 1] = T(0.25) * row[o];
}

// ---- rows and planes -----------------------------------------------------------------------------------------------

// Rows of four values a pixel, side by side, that follow one another down a plane: the last ones are kept. Each row
// begins at a multiple of 64 bytes and has room for two vectors more than it holds.
template <typename T>
class Ring {
 public:
  Ring(int64_t rows, int64_t width)
      : rows_(rows), stride_((width + 3 * room - 1) / room * room), values_(rows * row_size() + room) {
    first_ = values_.data() + (room - reinterpret_cast<uintptr_t>(values_.data()) / sizeof(T) % room) % room;
  }

  T* operator[](int64_t row) { return first_ + row % rows_ * row_size(); }
  int64_t stride() const { return stride_; }               // from one value of a pixel to its next
  int64_t row_size() const { return 4 * stride_ + room; }  // so that no width puts all rows in one set of the cache

 private:
  static constexpr int64_t room = 64 / sizeof(T);

  int64_t rows_, stride_;
  std::vector<T> values_;
  T* first_;
};

// Planes are cut into blocks of rows where there are few of them: by the shape alone, so that sums are the same for any
// number of threads, and seldom, since a block works on rows of its neighbours too.
struct Blocks {
  int64_t rows, per_plane;

  Blocks(int64_t planes, int64_t h) {
    constexpr int64_t wanted = 64, least_rows = 128;
    const int64_t count = std::clamp<int64_t>(wanted / planes, 1, std::max<int64_t>(1, h / least_rows));
    rows = (h + count * step_rows - 1) / (count * step_rows) * step_rows;
    per_plane = (h + rows - 1) / rows;
  }
};

// Half the mean of some values of a, about half their mean. None is taken where that is not a number.
template <typename T>
T shift_of(const T* x, const T* y, const Scale& scale) {
  constexpr int64_t samples = 8;
  double sum = 0;
  for (int64_t i = 0; i < samples; ++i) {
    for (int64_t j = 0; j < samples; ++j) {
      const int64_t row = (2 * i + 1) * scale.h / (2 * samples), column = (2 * j + 1) * scale.w / (2 * samples);
      sum += static_cast<double>(x[row * scale.w + column]) + static_cast<double>(y[row * scale.w + column]);
    }
  }
  const T shift = static_cast<T>(sum / (2 * samples * samples));
  return std::isfinite(shift) ? shift : T(0);
}

// Some planes of x and y at every scale: the images themselves, and room for those below.
template <typename T>
class Pyramid {
 public:
  Pyramid(const Arguments& arguments, int64_t count) : arguments_(arguments), count_(count) {
    const std::vector<Scale>& scales = arguments.scales;
    for (size_t level = 1; level < scales.size(); ++level) {
      below_x_.emplace_back(count * scales[level].pixels());
      below_y_.emplace_back(count * scales[level].pixels());
    }
  }

  // Goes to planes first, first + 1, … .
  void start(int64_t first) {
    const int64_t offset = first * arguments_.scales[0].pixels();
    x_ = static_cast<const T*>(arguments_.x.const_data_ptr()) + offset;
    y_ = static_cast<const T*>(arguments_.y.const_data_ptr()) + offset;
    formulas_.clear();
    for (int64_t plane = 0; plane < count_; ++plane) formulas_.push_back(formula_of(first + plane, plane));
    for (size_t level = 1; level < arguments_.scales.size(); ++level) {
      halve(x(level - 1), below_x_[level - 1].data(), arguments_.scales[level - 1], arguments_.scales[level]);
      halve(y(level - 1), below_y_[level - 1].data(), arguments_.scales[level - 1], arguments_.scales[level]);
    }
  }

  const T* x(int64_t level) const { return level == 0 ? x_ : below_x_[level - 1].data(); }
  const T* y(int64_t level) const { return level == 0 ? y_ : below_y_[level - 1].data(); }
  const Formula<T>& formula(int64_t plane) const { return formulas_[plane]; }
  int64_t count() const { return count_; }

 private:
  Formula<T> formula_of(int64_t plane, int64_t here) const {
    const Scale& scale = arguments_.scales[0];
    const T* const window = window_of<T>(arguments_, plane);
    double sum = 0;
    for (int64_t k = 0; k < arguments_.taps; ++k) sum += window[k];
    const T shift = shift_of(x_ + here * scale.pixels(), y_ + here * scale.pixels(), scale);
    return {arguments_.c1, arguments_.c2, shift, sum * sum};
  }

  // Means of 2 × 2 pixels; what an odd size lacks before its first row and column is zero.
  void halve(const T* from, T* to, const Scale& above, const Scale& scale) const {
    const int64_t odd = above.w % 2;
    parallel_range(count_ * scale.h, 4 * scale.w, [&](int64_t begin, int64_t end) {
      const std::vector<T> zero(above.w);
      std::vector<T> sums(above.w);
      for (int64_t i = begin; i < end; ++i) {
        const T* const image = from + i / scale.h * above.pixels();
        const int64_t row = 2 * (i % scale.h) - above.h % 2;
        T* const out = to + i * scale.w;
        add(row < 0 ? zero.data() : image + row * above.w, image + (row + 1) * above.w, sums.data(), above.w);
        if (odd) out[0] = T(0.25) * sums[0];
        quarter_of_pairs(sums.data() + odd, out + odd, above.w / 2);
      }
    });
  }

  const Arguments& arguments_;
  int64_t count_;
  const T *x_ = nullptr, *y_ = nullptr;
  std::vector<std::vector<T>> below_x_, below_y_;
  std::vector<Formula<T>> formulas_;
};

// Calls body(begin, end, count): planes [begin, end), `count` at a time. Where there is a plane for every thread, each
// works on its own, one after the other, and all scales of a plane are in its cache. Else all share all planes, scale
// by scale.
template <typename Body>
void for_planes(const Arguments& arguments, const Body& body) {
  if (arguments.planes < static_cast<int64_t>(torch::stable::get_num_threads())) {
    body(int64_t{0}, arguments.planes, arguments.planes);
  } else {
    parallel_range(arguments.planes, 16 * arguments.scales[0].pixels(),
                   [&](int64_t begin, int64_t end) { body(begin, end, int64_t{1}); });
  }
}

// ---- the means under the windows -----------------------------------------------------------------------------------

template <typename T>
class MeansOfPlane {
 public:
  MeansOfPlane(const Arguments& arguments, const Scale& scale)
      : scale_(scale),
        taps_(arguments.taps),
        sums_(1, scale.w),
        across_(taps_ - 1 + step_rows, scale.windows_w),
        means_(step_rows, scale.windows_w),
        rows_(taps_ - 1 + step_rows) {}

  // Goes to a row of windows of a plane.
  void start(const T* x, const T* y, const T* window, T shift, int64_t row) {
    x_ = x, y_ = y, window_ = window, shift_ = shift, done_ = row;
  }

  // The means of a', a'², b, b² under the windows of rows row, …, row + step_rows - 1; steps follow one another. What
  // is past the last row has no meaning.
  Ring<T>& step(int64_t row) {
    const int64_t end = std::min(row + static_cast<int64_t>(rows_.size()), scale_.h);
    for (; done_ < end; ++done_) {
      T *const a = sums_[0], *const b = a + sums_.stride();
      sum_and_difference(x_ + done_ * scale_.w, y_ + done_ * scale_.w, a, b, scale_.w, shift_);
      horizontal_means(across_[done_], across_.stride(), a, b, window_, taps_, scale_.windows_w);
    }
    for (size_t t = 0; t < rows_.size(); ++t) rows_[t] = across_[row + t];
    vertical(means_[0], means_.row_size(), rows_.data(), window_, taps_, 4 * means_.stride());
    return means_;
  }

 private:
  const Scale& scale_;
  int64_t taps_, done_ = 0;
  const T *x_ = nullptr, *y_ = nullptr, *window_ = nullptr;
  T shift_ = 0;
  Ring<T> sums_, across_, means_;
  std::vector<const T*> rows_;
};

// ---- forward -------------------------------------------------------------------------------------------------------

// values[plane] = mean over its windows of cs, or of l · cs at the last scale, for the planes from `first` on.
template <typename T>
void forward(const Arguments& arguments, const Pyramid<T>& pyramid, int64_t level, int64_t first, T* values) {
  const Scale& scale = arguments.scales[level];
  const Blocks blocks(arguments.planes, scale.windows_h);
  std::vector<double> sums(pyramid.count() * blocks.per_plane);
  parallel_range(static_cast<int64_t>(sums.size()), 8 * blocks.rows * scale.w, [&](int64_t begin, int64_t end) {
    MeansOfPlane<T> means(arguments, scale);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t plane = block / blocks.per_plane, from = block % blocks.per_plane * blocks.rows;
      const int64_t to = std::min(from + blocks.rows, scale.windows_h);
      const Formula<T>& f = pyramid.formula(plane);
      means.start(pyramid.x(level) + plane * scale.pixels(), pyramid.y(level) + plane * scale.pixels(),
                  window_of<T>(arguments, first + plane), f.shift, from);
      for (int64_t row = from; row < to; row += step_rows) {
        Ring<T>& rows = means.step(row);
        for (int64_t r = 0; r < std::min<int64_t>(step_rows, to - row); ++r) {
          const T *const a = rows[r], *const aa = a + rows.stride(), *const b = aa + rows.stride();
          const T* const bb = b + rows.stride();
          sums[block] += scale.luminance ? sum_of_losses<true>(a, aa, b, bb, scale.windows_w, f)
                                         : sum_of_losses<false>(a, aa, b, bb, scale.windows_w, f);
        }
      }
    }
  });
  for (int64_t plane = 0; plane < pyramid.count(); ++plane) {
    double sum = 0;
    for (int64_t i = 0; i < blocks.per_plane; ++i) sum += sums[plane * blocks.per_plane + i];
    values[first + plane] = static_cast<T>(1 - sum / static_cast<double>(scale.windows()));
  }
}

Tensor ms_ssim_cpu(const Tensor& x, const Tensor& y, const Tensor& win, double c1, double c2, int64_t levels) {
  const Arguments arguments(x, y, win, c1, c2, levels, "ms_ssim");
  const Tensor values = arguments.empty_values();
  if (arguments.planes == 0) return values;
  dispatch_floating(x.scalar_type(), "ms_ssim", [&](auto zero) {
    using T = accumulate_t<decltype(zero)>;
    T* const out = static_cast<T*>(values.mutable_data_ptr());
    for_planes(arguments, [&](int64_t begin, int64_t end, int64_t count) {
      Pyramid<T> pyramid(arguments, count);
      for (int64_t first = begin; first < end; first += count) {
        pyramid.start(first);
        for (int64_t level = 0; level < levels; ++level) {
          forward(arguments, pyramid, level, first, out + level * arguments.planes);
        }
      }
    });
  });
  return values;
}

// ---- backward ------------------------------------------------------------------------------------------------------

// The gradients of x and y at one scale, one of them or both.
template <typename T>
struct Gradients {
  T *x = nullptr, *y = nullptr;
};

// The gradient of one block of rows of one plane: means, then slopes filtered across as they come, then down.
template <bool BothImages, typename T>
class BackwardOfBlock {
 public:
  BackwardOfBlock(const Arguments& arguments, const Scale& scale)
      : scale_(scale),
        taps_(arguments.taps),
        margin_(taps_ - 1),
        means_(arguments, scale),
        slopes_(1, scale.w + margin_),
        across_(margin_ + step_rows, scale.w),
        down_(step_rows, scale.w),
        zero_(across_.row_size()),
        below_x_(scale.w + 1),
        below_y_(scale.w + 1),
        flipped_(taps_),
        rows_(margin_ + step_rows) {}

  // Rows [begin, end) of the plane's gradients of factor · Σ of cs (or of l · cs), plus those of the scale below.
  void run(const T* x, const T* y, const T* window, const Formula<T>& f, T factor, Gradients<const T> below,
           Gradients<T> grad, int64_t begin, int64_t end) {
    std::reverse_copy(window, window + taps_, flipped_.begin());
    // A row of pixels lies under windows that begin up to `margin` rows before it: the walk starts there, in steps.
    const int64_t ahead = (margin_ + step_rows - 1) / step_rows * step_rows;
    const int64_t start = std::max<int64_t>(begin - ahead, 0);
    means_.start(x, y, window, f.shift, start);
    for (int64_t row = start; row < end; row += step_rows) {
      if (row < scale_.windows_h) filter_slopes_across(row, f);
      if (row < begin) continue;
      filter_down(row);
      for (int64_t r = 0; r < std::min<int64_t>(step_rows, end - row); ++r) {
        const T *const by_x = down_[r], *const by_aa = by_x + down_.stride(), *const by_bb = by_aa + down_.stride();
        const int64_t at = (row + r) * scale_.w;
        if (r == 0 || (row + r + scale_.h) % 2 == 0) {  // two rows get the same
          spread(below.x, row + r, below_x_);
          if (BothImages) spread(below.y, row + r, below_y_);
        }
        row_of_gradients<BothImages>(by_x, by_aa, by_bb, by_bb + down_.stride(), x + at, y + at, below_x_.data(),
                                     below_y_.data(), grad.x + at, BothImages ? grad.y + at : nullptr, scale_.w, factor,
                                     f.shift);
      }
    }
  }

 private:
  static constexpr int filtered = BothImages ? 4 : 3;

  // Slopes have `margin` zeros at either side: pixels near an edge lie under fewer windows.
  void filter_slopes_across(int64_t row, const Formula<T>& f) {
    Ring<T>& means = means_.step(row);
    const int64_t stride = slopes_.stride();
    T* const by_x = slopes_[0] + margin_;
    for (int64_t r = 0; r < std::min<int64_t>(step_rows, scale_.windows_h - row); ++r) {
      const T *const a = means[r], *const aa = a + means.stride(), *const b = aa + means.stride();
      const auto fill = [&](auto luminance) {
        row_of_slopes<luminance, BothImages>(a, aa, b, b + means.stride(), by_x, by_x + stride, by_x + 2 * stride,
                                             by_x + 3 * stride, scale_.windows_w, f);
      };
      scale_.luminance ? fill(std::true_type()) : fill(std::false_type());
      for (int i = 0; i < filtered; ++i) {
        horizontal(across_[row + r] + i * across_.stride(), slopes_[0] + i * stride, flipped_.data(), taps_, scale_.w);
      }
    }
  }

  void filter_down(int64_t row) {
    for (size_t t = 0; t < rows_.size(); ++t) {
      const int64_t at = row - margin_ + static_cast<int64_t>(t);
      rows_[t] = 0 <= at && at < scale_.windows_h ? across_[at] : zero_.data();
    }
    vertical(down_[0], down_.row_size(), rows_.data(), flipped_.data(), taps_, filtered * down_.stride());
  }

  // A quarter of each value of the scale below goes to its 2 × 2 pixels.
  void spread(const T* below, int64_t row, std::vector<T>& out) const {
    if (!below) return;
    const int64_t odd = scale_.w % 2;
    const T* const from = below + (row + scale_.h % 2) / 2 * halved(scale_.w);
    if (odd) out[0] = T(0.25) * from[0];
    quarter_to_pairs(from + odd, out.data() + odd, scale_.w / 2);
  }

  const Scale& scale_;
  int64_t taps_, margin_;
  MeansOfPlane<T> means_;
  Ring<T> slopes_, across_, down_;
  std::vector<T> zero_, below_x_, below_y_, flipped_;
  std::vector<const T*> rows_;
};

template <bool BothImages, typename T>
void backward(const Arguments& arguments, const Pyramid<T>& pyramid, int64_t level, int64_t first, const T* grad,
              Gradients<const T> below, Gradients<T> out) {
  const Scale& scale = arguments.scales[level];
  const Blocks blocks(arguments.planes, scale.h);
  const int64_t pixels = scale.pixels(), pixels_below = halved(scale.h) * halved(scale.w);
  parallel_range(pyramid.count() * blocks.per_plane, 16 * blocks.rows * scale.w, [&](int64_t begin, int64_t end) {
    BackwardOfBlock<BothImages, T> block(arguments, scale);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / blocks.per_plane, from = i % blocks.per_plane * blocks.rows;
      const double factor = static_cast<double>(grad[first + plane]) / static_cast<double>(scale.windows());
      const auto of_plane = [&](auto images, int64_t size) {
        if (images.x) images.x += plane * size;
        if (images.y) images.y += plane * size;
        return images;
      };
      block.run(pyramid.x(level) + plane * pixels, pyramid.y(level) + plane * pixels,
                window_of<T>(arguments, first + plane), pyramid.formula(plane), static_cast<T>(factor),
                of_plane(below, pixels_below), of_plane(out, pixels), from, std::min(from + blocks.rows, scale.h));
    }
  });
}

template <bool BothImages, typename T>
void backward_of_planes(const Arguments& arguments, const T* grad, Gradients<T> out) {
  for_planes(arguments, [&](int64_t begin, int64_t end, int64_t count) {
    Pyramid<T> pyramid(arguments, count);
    std::vector<std::vector<T>> x, y;  // gradients at every scale but the first
    for (int64_t level = 1; level < arguments.levels(); ++level) {
      x.emplace_back(count * arguments.scales[level].pixels());
      y.emplace_back(BothImages ? x.back().size() : 0);
    }
    for (int64_t first = begin; first < end; first += count) {
      pyramid.start(first);
      Gradients<const T> below;
      for (int64_t level = arguments.levels() - 1; level >= 0; --level) {
        const int64_t offset = first * arguments.scales[0].pixels();
        Gradients<T> here;
        here.x = level == 0 ? out.x + offset : x[level - 1].data();
        if (BothImages) here.y = level == 0 ? out.y + offset : y[level - 1].data();
        backward<BothImages>(arguments, pyramid, level, first, grad + level * arguments.planes, below, here);
        below = {here.x, here.y};
      }
    }
  });
}

std::tuple<Tensor, Tensor> ms_ssim_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& y, const Tensor& win,
                                                double c1, double c2, int64_t levels, bool both_images) {
  const char* op = "ms_ssim_backward";
  const Arguments arguments(x, y, win, c1, c2, levels, op);
  const Tensor dense_grad = arguments.checked(grad, op);
  const Tensor grad_x = arguments.empty_images(), grad_y = arguments.empty_images(both_images);
  if (arguments.planes == 0) return {grad_x, grad_y};
  dispatch_floating(x.scalar_type(), op, [&](auto zero) {
    using T = accumulate_t<decltype(zero)>;
    const T* const by_values = static_cast<const T*>(dense_grad.const_data_ptr());
    T* const out_x = static_cast<T*>(grad_x.mutable_data_ptr());
    if (both_images) {
      backward_of_planes<true, T>(arguments, by_values, {out_x, static_cast<T*>(grad_y.mutable_data_ptr())});
    } else {
      backward_of_planes<false, T>(arguments, by_values, {out_x, nullptr});
    }
  });
  return {grad_x, grad_y};
}

}  // namespace
}  // namespace fastunlearn::ms_ssim

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("ms_ssim", TORCH_BOX(&fastunlearn::ms_ssim::ms_ssim_cpu));
  m.impl("ms_ssim_backward", TORCH_BOX(&fastunlearn::ms_ssim::ms_ssim_backward_cpu));
}
