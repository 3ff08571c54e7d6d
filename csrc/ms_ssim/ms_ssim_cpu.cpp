// ms_ssim on the CPU. Forward and backward walk down a plane in steps of a few rows; what lies between two passes is a
// ring of rows that stays in the cache, never an image.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
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

// A row of gradients from rows of filtered slopes.
template <bool BothImages, typename T>
FASTUNLEARN_CLONES void row_of_gradients(const T* by_x, const T* by_aa, const T* by_bb, const T* by_y, const T* x,
                                         const T* y, T* __restrict grad_x, T* __restrict grad_y, int64_t n, T scale,
                                         T shift) {
  for (int64_t i = 0; i < n; ++i) {
    const T a = 2 * ((x[i] - shift) + (y[i] - shift)) * by_aa[i], b = 2 * (x[i] - y[i]) * by_bb[i];
    grad_x[i] = scale * (by_x[i] + (a + b));
    if (BothImages) grad_y[i] = scale * (by_y[i] + (a - b));
  }
}

// out[o] is a quarter of what two rows hold at 2·o and 2·o + 1.
template <typename T>
FASTUNLEARN_CLONES void add_pairs(const T* row0, const T* row1, T* __restrict out, int64_t n) {
  for (int64_t o = 0; o < n; ++o) {
    out[o] = T(0.25) * ((row0[2 * o] + row0[2 * o + 1]) + (row1[2 * o] + row1[2 * o + 1]));
  }
}

// Its transpose: a quarter of each value is added to two places.
template <typename T>
FASTUNLEARN_CLONES void spread_pairs(const T* row, T* __restrict out, int64_t n) {
  for (int64_t o = 0; o < n; ++o) {
    out[2 * o] += T(0.25) * row[o];
    out[2 * o + 1] += T(0.25) * row[o];
  }
}

// ---- the pyramid ---------------------------------------------------------------------------------------------------

// Row o of the scale below an image of h × w; rows and columns that an odd size lacks are zero.
template <typename T>
void halve_row(const T* image, int64_t h, int64_t w, int64_t o, T* out, const T* zero) {
  const int64_t odd = w % 2, row = 2 * o - h % 2;
  const T *row0 = row < 0 ? zero : image + row * w, *row1 = image + (row + 1) * w;
  if (odd) out[0] = T(0.25) * (row0[0] + row1[0]);
  add_pairs(row0 + odd, row1 + odd, out + odd, w / 2);
}

// Adds to row i of a gradient of h × w what the gradient of the scale below says of it.
template <typename T>
void spread_row(const T* below, int64_t h, int64_t w, int64_t i, T* out) {
  const int64_t odd = w % 2;
  const T* const row = below + (i + h % 2) / 2 * halved(w);
  if (odd) out[0] += T(0.25) * row[0];
  spread_pairs(row + odd, out + odd, w / 2);
}

template <typename T>
const T* data(const Tensor& images) {
  return static_cast<const T*>(images.const_data_ptr());
}

template <typename T>
void fill_scales(const Arguments& arguments) {
  for (size_t level = 1; level < arguments.scales.size(); ++level) {
    const Scale &above = arguments.scales[level - 1], &scale = arguments.scales[level];
    const int64_t rows = arguments.planes * scale.h;
    for (const auto& [from, to] : {std::tie(above.x, scale.x), std::tie(above.y, scale.y)}) {
      const T* const in = data<T>(from);
      T* const out = static_cast<T*>(to.mutable_data_ptr());
      parallel_range(rows, 4 * scale.w, [&](int64_t begin, int64_t end) {
        const std::vector<T> zero(above.w);
        for (int64_t i = begin; i < end; ++i) {
          halve_row(in + i / scale.h * above.h * above.w, above.h, above.w, i % scale.h, out + i * scale.w,
                    zero.data());
        }
      });
    }
  }
}

// ---- planes, blocks, threads ---------------------------------------------------------------------------------------

// About half the mean of a: half the mean of some of its values. None is taken where that is not a number.
template <typename T>
T shift_of(const T* x, const T* y, int64_t h, int64_t w) {
  constexpr int64_t samples = 8;
  double sum = 0;
  for (int64_t i = 0; i < samples; ++i) {
    for (int64_t j = 0; j < samples; ++j) {
      const int64_t at = (2 * i + 1) * h / (2 * samples) * w + (2 * j + 1) * w / (2 * samples);
      sum += static_cast<double>(x[at]) + static_cast<double>(y[at]);
    }
  }
  const T shift = static_cast<T>(sum / (2 * samples * samples));
  return std::isfinite(shift) ? shift : T(0);
}

template <typename T>
std::vector<Formula<T>> formulas(const Arguments& arguments) {
  const Scale& scale = arguments.scales[0];
  std::vector<Formula<T>> result;
  for (int64_t plane = 0; plane < arguments.planes; ++plane) {
    const T* const window = arguments.window<T>(plane);
    double sum = 0;
    for (int64_t k = 0; k < arguments.taps; ++k) sum += window[k];
    const int64_t begin = plane * scale.h * scale.w;
    result.emplace_back(arguments.c1, arguments.c2,
                        shift_of(data<T>(scale.x) + begin, data<T>(scale.y) + begin, scale.h, scale.w), sum * sum);
  }
  return result;
}

// Planes are cut into blocks of rows where there are few of them: by the shape alone, so that sums are the same for any
// number of threads, and seldom, since a block works on rows of its neighbours too.
struct Blocks {
  int64_t per_plane, rows;

  Blocks(int64_t planes, int64_t h) {
    constexpr int64_t wanted = 64, least_rows = 128;
    per_plane = std::clamp<int64_t>(wanted / planes, 1, std::max<int64_t>(1, h / least_rows));
    rows = (h + per_plane * step_rows - 1) / (per_plane * step_rows) * step_rows;
  }

  // Calls body(plane, block, begin, end) with the rows of each block.
  template <typename Body>
  void parallel(int64_t planes, int64_t h, int64_t w, const Body& body) const {
    parallel_range(planes * per_plane, 16 * rows * w, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t begin = i % per_plane * rows;
        if (begin < h) body(i / per_plane, i, begin, std::min(begin + rows, h));
      }
    });
  }
};

// Rows of four values a pixel, side by side, that follow one another down a plane: the last ones are kept. Vectors may
// read behind a row, and what lies there is zero or an older value.
template <typename T>
class Ring {
 public:
  static constexpr int64_t room = 64 / sizeof(T);  // the longest vector

  Ring(int64_t rows, int64_t width)
      : rows_(rows), stride_((width + 2 * room - 1) / room * room), values_(rows * 4 * stride_ + 2 * room) {
    const auto misaligned = reinterpret_cast<uintptr_t>(values_.data()) / sizeof(T) % room;
    first_ = values_.data() + (room - misaligned);
  }

  T* operator[](int64_t row) { return first_ + row % rows_ * 4 * stride_; }
  int64_t stride() const { return stride_; }
  int64_t row_size() const { return 4 * stride_; }

 private:
  int64_t rows_, stride_;
  std::vector<T> values_;
  T* first_;
};

// The means under the windows of a plane, step_rows rows of windows at a time.
template <typename T>
class MeansOfPlane {
 public:
  MeansOfPlane(const Arguments& arguments, const Scale& scale)
      : scale_(scale),
        taps_(arguments.taps),
        sums_(1, scale.w + taps_),
        across_(taps_ + step_rows - 1, scale.windows_w),
        means_(step_rows, scale.windows_w),
        rows_(taps_ + step_rows - 1) {}

  // Goes to a row of windows of a plane.
  void start(const T* x, const T* y, const T* window, T shift, int64_t row) {
    x_ = x, y_ = y, window_ = window, shift_ = shift;
    done_ = row;
  }

  // The means of windows row, row + 1, …, step_rows of them; those past the last row are of no meaning.
  Ring<T>& step(int64_t row) {
    const int64_t end = std::min(row + static_cast<int64_t>(rows_.size()), scale_.h);
    for (; done_ < end; ++done_) {
      T *const a = sums_[0], *const b = a + sums_.stride();
      sum_and_difference(x_ + done_ * scale_.w, y_ + done_ * scale_.w, a, b, scale_.w, shift_);
      horizontal_means(across_[done_], across_.stride(), a, b, window_, taps_, scale_.windows_w);
    }
    for (size_t t = 0; t < rows_.size(); ++t) rows_[t] = across_[std::min<int64_t>(row + t, scale_.h - 1)];
    vertical(means_[0], means_.row_size(), rows_.data(), window_, taps_, means_.row_size());
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

// values[plane] = mean over its windows of cs, or of l · cs at the last scale.
template <typename T>
void forward(const Arguments& arguments, const Scale& scale, const std::vector<Formula<T>>& formulas, T* values) {
  const Blocks blocks(arguments.planes, scale.windows_h);
  std::vector<double> sums(arguments.planes * blocks.per_plane);
  blocks.parallel(arguments.planes, scale.windows_h, scale.w, [&](int64_t plane, int64_t block, int64_t begin,
                                                                  int64_t end) {
    MeansOfPlane<T> means(arguments, scale);
    const Formula<T>& f = formulas[plane];
    const int64_t offset = plane * scale.h * scale.w;
    means.start(data<T>(scale.x) + offset, data<T>(scale.y) + offset, arguments.window<T>(plane), f.shift, begin);
    double sum = 0;
    for (int64_t row = begin; row < end; row += step_rows) {
      Ring<T>& m = means.step(row);
      for (int64_t r = 0; r < std::min<int64_t>(step_rows, end - row); ++r) {
        const T *const a = m[r], *const aa = a + m.stride(), *const b = aa + m.stride(), *const bb = b + m.stride();
        sum += scale.luminance ? sum_of_losses<true>(a, aa, b, bb, scale.windows_w, f)
                               : sum_of_losses<false>(a, aa, b, bb, scale.windows_w, f);
      }
    }
    sums[block] = sum;
  });
  for (int64_t plane = 0; plane < arguments.planes; ++plane) {
    double sum = 0;
    for (int64_t i = 0; i < blocks.per_plane; ++i) sum += sums[plane * blocks.per_plane + i];
    values[plane] = static_cast<T>(1 - sum / static_cast<double>(scale.windows()));
  }
}

Tensor ms_ssim_cpu(const Tensor& x, const Tensor& y, const Tensor& win, double c1, double c2, int64_t levels) {
  const Arguments arguments(x, y, win, c1, c2, levels, "ms_ssim");
  const Tensor values = arguments.empty_values(x);
  if (arguments.planes == 0) return values;
  dispatch_floating(x.scalar_type(), "ms_ssim", [&](auto zero) {
    using T = accumulate_t<decltype(zero)>;
    fill_scales<T>(arguments);
    const auto of_planes = formulas<T>(arguments);
    T* out = static_cast<T*>(values.mutable_data_ptr());
    for (const Scale& scale : arguments.scales) {
      forward(arguments, scale, of_planes, out);
      out += arguments.planes;
    }
  });
  return values;
}

// ---- backward ------------------------------------------------------------------------------------------------------

// What a thread keeps: means, slopes with margins of zeros, slopes filtered across, and down.
template <typename T>
struct BackwardRows {
  int64_t margin;
  MeansOfPlane<T> means;
  Ring<T> slopes, across, filtered;
  std::vector<T> zero, flipped;
  std::vector<const T*> rows;

  BackwardRows(const Arguments& arguments, const Scale& scale)
      : margin(arguments.taps - 1),
        means(arguments, scale),
        slopes(1, scale.w + margin),
        across(margin + step_rows, scale.w),
        filtered(step_rows, scale.w),
        zero(across.row_size()),
        flipped(arguments.taps),
        rows(margin + step_rows) {}
};

// grad_x and grad_y at one scale: those of grad[plane] · mean of cs (or l · cs), and those of the scale below. grad_y
// is for BothImages.
template <bool BothImages, typename T>
void backward(const Arguments& arguments, const Scale& scale, const std::vector<Formula<T>>& formulas, const T* grad,
              const T* below_x, const T* below_y, T* grad_x, T* grad_y) {
  const int64_t h = scale.h, w = scale.w, below_size = halved(h) * halved(w), taps = arguments.taps;
  const Blocks blocks(arguments.planes, h);
  blocks.parallel(arguments.planes, h, w, [&](int64_t plane, int64_t, int64_t begin, int64_t end) {
    BackwardRows<T> k(arguments, scale);
    const Formula<T>& f = formulas[plane];
    const T *const x = data<T>(scale.x) + plane * h * w, *const y = data<T>(scale.y) + plane * h * w;
    const T factor = static_cast<T>(static_cast<double>(grad[plane]) / static_cast<double>(scale.windows()));
    const T* const window = arguments.window<T>(plane);
    std::reverse_copy(window, window + taps, k.flipped.begin());

    // A gradient row meets the windows that begin up to `margin` rows before it: the walk starts with those, in whole
    // steps.
    const int64_t ahead = (k.margin + step_rows - 1) / step_rows * step_rows;
    const int64_t first = std::max<int64_t>(begin - ahead, 0);
    const int64_t last_window = std::min(end, scale.windows_h);
    k.means.start(x, y, window, f.shift, first);
    for (int64_t row = first; row < end; row += step_rows) {
      if (row < last_window) {
        Ring<T>& m = k.means.step(row);
        for (int64_t r = 0; r < std::min<int64_t>(step_rows, last_window - row); ++r) {
          const T *const a = m[r], *const aa = a + m.stride(), *const b = aa + m.stride(), *const bb = b + m.stride();
          const int64_t stride = k.slopes.stride();
          T* const s = k.slopes[0] + k.margin;
          if (scale.luminance) {
            row_of_slopes<true, BothImages>(a, aa, b, bb, s, s + stride, s + 2 * stride, s + 3 * stride, scale.windows_w, f);
          } else {
            row_of_slopes<false, BothImages>(a, aa, b, bb, s, s + stride, s + 2 * stride, s + 3 * stride, scale.windows_w, f);
          }
          for (int64_t channel = 0; channel < (BothImages ? 4 : 3); ++channel) {
            horizontal(k.across[row + r] + channel * k.across.stride(), k.slopes[0] + channel * stride,
                       k.flipped.data(), taps, w);
          }
        }
      }
      if (row < begin) continue;
      for (size_t t = 0; t < k.rows.size(); ++t) {
        const int64_t at = row - k.margin + static_cast<int64_t>(t);
        k.rows[t] = 0 <= at && at < scale.windows_h ? k.across[at] : k.zero.data();
      }
      vertical(k.filtered[0], k.filtered.row_size(), k.rows.data(), k.flipped.data(), taps,
               (BothImages ? 4 : 3) * k.filtered.stride());
      for (int64_t r = 0; r < std::min<int64_t>(step_rows, end - row); ++r) {
        const int64_t stride = k.filtered.stride(), at = (row + r) * w;
        const T* const s = k.filtered[r];
        T *const to_x = grad_x + plane * h * w + at, *const to_y = BothImages ? grad_y + plane * h * w + at : nullptr;
        row_of_gradients<BothImages>(s, s + stride, s + 2 * stride, s + 3 * stride, x + at, y + at, to_x, to_y, w,
                                     factor, f.shift);
        if (below_x) spread_row(below_x + plane * below_size, h, w, row + r, to_x);
        if (BothImages && below_y) spread_row(below_y + plane * below_size, h, w, row + r, to_y);
      }
    }
  });
}

std::tuple<Tensor, Tensor> ms_ssim_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& y,
                                                const Tensor& win, double c1, double c2, int64_t levels,
                                                bool both_images) {
  const char* op = "ms_ssim_backward";
  const Arguments arguments(x, y, win, c1, c2, levels, op);
  arguments.check_grad(grad, x, op);
  const Gradients grads(arguments, x, both_images);
  if (arguments.planes == 0) return grads.results();
  const Tensor dense_grad = torch::stable::contiguous(grad);
  dispatch_floating(x.scalar_type(), op, [&](auto zero) {
    using T = accumulate_t<decltype(zero)>;
    fill_scales<T>(arguments);
    const auto of_planes = formulas<T>(arguments);
    for (int64_t level = levels - 1; level >= 0; --level) {
      const auto run = both_images ? backward<true, T> : backward<false, T>;
      run(arguments, arguments.scales[level], of_planes, data<T>(dense_grad) + level * arguments.planes,
          grads.x<T>(level + 1), grads.y<T>(level + 1), grads.x<T>(level), grads.y<T>(level));
    }
  });
  return grads.results();
}

}  // namespace
}  // namespace fastunlearn::ms_ssim

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("ms_ssim", TORCH_BOX(&fastunlearn::ms_ssim::ms_ssim_cpu));
  m.impl("ms_ssim_backward", TORCH_BOX(&fastunlearn::ms_ssim::ms_ssim_backward_cpu));
}
