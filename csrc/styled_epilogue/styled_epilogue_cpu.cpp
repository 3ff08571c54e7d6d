// styled_epilogue on the CPU: the filter's blocks, finished while they are in the cache; backward the same the other
// way round, a row's slopes and sums as it is read for the adjoint filter.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "bias_act/piecewise_avx512.h"
#include "common/launch.h"
#include "common/tiles_cpu.h"
#include "styled_epilogue/styled_epilogue_arguments.h"
#include "upfirdn2d/blocks_cpu.h"

namespace fastunlearn::styled_epilogue {
namespace {

using upfirdn2d::Block;
using upfirdn2d::Range;

// Partial sums of a row, so that the compiler can add in vectors without changing the order of any sum.
constexpr int lanes = 16;

// ---- inner loops ---------------------------------------------------------------------------------------------------

// n neighbours of one channel. Without noise, strength is 0 and noise is not read.
template <Activation A, typename R>
FASTUNLEARN_CLONES void forward_plane(const R* v, const R* noise, R* y, int64_t n, R scale, R strength, R b,
                                      Parameters<R> p) {
  if (noise) {
    FASTUNLEARN_NO_DEPENDENCE
    for (int64_t i = 0; i < n; ++i) y[i] = bias_act::forward_element<A>(scale * v[i] + strength * noise[i], b, p);
  } else {
    FASTUNLEARN_NO_DEPENDENCE
    for (int64_t i = 0; i < n; ++i) y[i] = bias_act::forward_element<A>(scale * v[i], b, p);
  }
}

// Pixels of `channels` neighbours each.
template <Activation A, typename R>
FASTUNLEARN_CLONES void forward_pixels(const R* v, const R* noise, R* y, int64_t pixels, int64_t channels,
                                       const R* scale, R strength, const R* b, Parameters<R> p) {
  for (int64_t i = 0; i < pixels; ++i, v += channels, y += channels) {
    const R shift = noise ? strength * noise[i] : R(0);
    FASTUNLEARN_NO_DEPENDENCE
    for (int64_t c = 0; c < channels; ++c) y[c] = bias_act::forward_element<A>(scale[c] * v[c] + shift, b[c], p);
  }
}

template <typename R>
__attribute__((always_inline)) inline R sum_of(R* values) {
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) values[lane] += values[lane + half];
  }
  return values[0];
}

// out = scale · g, and the sums of g, g · noise and g · u, unless null, increased by theirs.
template <Activation A, typename R>
FASTUNLEARN_CLONES void backward_plane(const R* grad_y, const R* y, const R* noise, R* out, R* totals, int64_t n,
                                       R scale, Parameters<R> p) {
  if (!totals) {
    FASTUNLEARN_NO_DEPENDENCE
    for (int64_t i = 0; i < n; ++i) out[i] = scale * bias_act::backward_element<A>(grad_y[i], y[i], R(0), p);
    return;
  }
  R of_g[lanes] = {}, of_g_noise[lanes] = {}, of_g_u[lanes] = {};
  const auto add = [&](int64_t i, int lane) __attribute__((always_inline)) {
    const R g = bias_act::backward_element<A>(grad_y[i], y[i], R(0), p);
    out[i] = scale * g;
    of_g[lane] += g;
    of_g_u[lane] += gradient_times_input(grad_y[i], y[i], p);
    if (noise) of_g_noise[lane] += g * noise[i];
  };
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    FASTUNLEARN_NO_DEPENDENCE
    for (int lane = 0; lane < lanes; ++lane) add(i + lane, lane);
  }
  for (int lane = 0; i < n; ++i, ++lane) add(i, lane);
  totals[0] += sum_of(of_g);
  totals[1] += sum_of(of_g_noise);
  totals[2] += sum_of(of_g_u);
}

// The same for pixels; totals are [3, stride], a number for each channel.
template <Activation A, typename R>
FASTUNLEARN_CLONES void backward_pixels(const R* grad_y, const R* y, const R* noise, R* out, R* totals, int64_t stride,
                                        int64_t pixels, int64_t channels, const R* scale, Parameters<R> p) {
  for (int64_t i = 0; i < pixels; ++i, grad_y += channels, y += channels, out += channels) {
    if (!totals) {
      FASTUNLEARN_NO_DEPENDENCE
      for (int64_t c = 0; c < channels; ++c) {
        out[c] = scale[c] * bias_act::backward_element<A>(grad_y[c], y[c], R(0), p);
      }
      continue;
    }
    const R here = noise ? noise[i] : R(0);
    FASTUNLEARN_NO_DEPENDENCE
    for (int64_t c = 0; c < channels; ++c) {
      const R g = bias_act::backward_element<A>(grad_y[c], y[c], R(0), p);
      out[c] = scale[c] * g;
      totals[c] += g;
      totals[stride + c] += g * here;
      totals[2 * stride + c] += gradient_times_input(grad_y[c], y[c], p);
    }
  }
}

// ---- rows ----------------------------------------------------------------------------------------------------------

// The tensors beside x as the loops want them: ones and zeros where absent, and planes for both orders of memory.
template <typename R>
struct Layer {
  Parameters<R> p;
  int64_t channels, planes_per_image, width;  // of y
  const R* noise;
  int64_t noise_stride;
  R strength;
  std::vector<R> scale, b;  // [N, C], [C]

  Layer(const Sides& sides, const Tensor& y, bool channels_last, Parameters<R> parameters)
      : p(parameters),
        channels(channels_last ? y.size(1) : 1),
        planes_per_image(channels_last ? 1 : y.size(1)),
        width(y.size(3)),
        noise(static_cast<const R*>(sides.noise)),
        noise_stride(sides.noise_stride),
        strength(sides.strength ? *static_cast<const R*>(sides.strength) : R(0)),
        scale(y.size(0) * y.size(1), R(1)),
        b(y.size(1), R(0)) {
    if (sides.scale) std::copy_n(static_cast<const R*>(sides.scale), scale.size(), scale.begin());
    if (sides.b) std::copy_n(static_cast<const R*>(sides.b), b.size(), b.begin());
  }

  int64_t row_size() const { return width * channels; }
  int64_t first_channel(const Block& block) const { return block.plane * channels; }
  const R* scales(const Block& block) const {
    return scale.data() + block.image * planes_per_image * channels + first_channel(block);
  }
  const R* noise_row(const Block& block, int64_t row) const {
    return noise ? noise + block.image * noise_stride + row * width : nullptr;
  }

  // Calls body(begin, end, pixel, channel) for pieces of n values from the start of a row on, a tile at most: whole
  // pixels, or a part of one.
  template <typename Body>
  void pieces(int64_t n, const Body& body) const {
    const int64_t whole = tile / channels * channels;
    for (int64_t begin = 0; begin < n;) {
      const int64_t pixel = begin / channels, channel = begin % channels;
      const int64_t end = std::min(n, whole > 0 ? begin + whole : std::min(begin + tile, (pixel + 1) * channels));
      body(begin, end, pixel, channel);
      begin = end;
    }
  }

  template <Activation A>
  void forward(const Block& block, const R* v, const R* noise_here, R* y, int64_t n, int64_t pixel,
               int64_t channel) const {
    const R* const scales_here = scales(block) + channel;
    const R* const biases = b.data() + first_channel(block) + channel;
    if (noise_here) noise_here += pixel;
    if (channels == 1) {
      forward_plane<A>(v, noise_here, y, n, *scales_here, strength, *biases, p);
    } else {
      const int64_t of_pixel = std::min(n, channels);
      forward_pixels<A>(v, noise_here, y, n / of_pixel, of_pixel, scales_here, strength, biases, p);
    }
  }

  // totals: [sums, channels] or null.
  template <Activation A>
  void backward(const Block& block, const R* grad_y, const R* y, const R* noise_here, R* out, R* totals, int64_t n,
                int64_t pixel, int64_t channel) const {
    const R* const scales_here = scales(block) + channel;
    if (noise_here) noise_here += pixel;
    if (channels == 1) {
      backward_plane<A>(grad_y, y, noise_here, out, totals, n, *scales_here, p);
    } else {
      const int64_t of_pixel = std::min(n, channels);
      backward_pixels<A>(grad_y, y, noise_here, out, totals ? totals + channel : nullptr, channels, n / of_pixel,
                         of_pixel, scales_here, p);
    }
  }
};

// ---- forward -------------------------------------------------------------------------------------------------------

#if defined(FASTUNLEARN_AVX512)
// forward_pixels in registers, behind the filter's last sum.
template <Activation A>
struct EndOfPixels {
  const float *scale, *b, *noise;  // noise: of the first row, or null
  int64_t width;
  float strength;
  Parameters<float> p;

  struct Channels {
    __m512 scale, b;
    const float* noise;
    float strength;
    bias_act::ForwardVector<A> activate;

    FASTUNLEARN_AVX512_TARGET INLINE __m512 operator()(const __m512& v, int64_t pixel) const {
      const __m512 shift = _mm512_set1_ps(noise ? strength * noise[pixel] : 0.0f);
      return activate(_mm512_add_ps(_mm512_fmadd_ps(scale, v, shift), b));
    }
  };
  FASTUNLEARN_AVX512_TARGET INLINE Channels of_channels(int64_t row, int64_t channel) const {
    return {_mm512_loadu_ps(scale + channel), _mm512_loadu_ps(b + channel), noise ? noise + row * width : nullptr,
            strength, bias_act::ForwardVector<A>(p)};
  }
};
#else
template <Activation>
struct EndOfPixels {
  const void *scale, *b, *noise;
  int64_t width;
  double strength;
  Parameters<float> p;
};
#endif

template <Activation A, typename S>
struct Finishing {
  using T = accumulate_t<S>;
  static constexpr bool loads = !std::is_same_v<S, T>, counts = false, finishes = true;
  const Layer<T>& layer;
  const Tensor& x;
  int64_t in_size, numel;  // values of a row of x; of y

  const S* plane(const Block& block) const {
    return static_cast<const S*>(x.const_data_ptr()) + block.image * x.stride(0) + block.plane * x.stride(1);
  }
  int64_t row_stride() const { return x.stride(2); }
  void load(const Block& block, Range rows, bool, T* to) const {
    for (int64_t row = rows.begin; row < rows.end; ++row, to += in_size) {
      convert(plane(block) + row * row_stride(), to, in_size);
    }
  }
  auto vectors(const Block& block, Range outputs) const {
    return EndOfPixels<A>{layer.scales(block), layer.b.data(), layer.noise_row(block, outputs.begin),
                          layer.width,         layer.strength, layer.p};
  }
  template <typename V>
  void finish(const Block& block, Range outputs, const V* from, S* y) const {
    Result<S, T> result(y, numel);
    T buffer[tile];
    const T* const noise = layer.noise_row(block, outputs.begin);
    layer.pieces(outputs.size() * layer.row_size(), [&](int64_t begin, int64_t end, int64_t pixel, int64_t channel) {
      layer.template forward<A>(block, read(from, begin, end, buffer), noise, result.place(begin), end - begin, pixel,
                                channel);
      result.finish(begin, end);
    });
  }
};

// Without a filter: rows of a plane that are one block, as many values as are worth a thread's while.
template <typename R>
int64_t rows_per_block(const Layer<R>& layer, int64_t height) {
  return std::clamp<int64_t>(16384 / layer.row_size(), 1, height);
}

// Calls body(block, rows) for all of them.
template <typename R, typename Body>
void blocks_of_rows(const Layer<R>& layer, int64_t images, int64_t height, const Body& body) {
  const int64_t rows = rows_per_block(layer, height), per_plane = upfirdn2d::ceil_div(height, rows);
  parallel_range(images * layer.planes_per_image * per_plane, rows * layer.row_size(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / per_plane, part = i % per_plane;
      body(Block{plane / layer.planes_per_image, plane % layer.planes_per_image, part},
           Range{part * rows, std::min((part + 1) * rows, height)});
    }
  });
}

Tensor styled_epilogue_cpu(const Tensor& x, const std::optional<Tensor>& f, int64_t pad_x, int64_t pad_y, int64_t out_h,
                           int64_t out_w, bool flip_filter, double filter_gain, const std::optional<Tensor>& scale,
                           const std::optional<Tensor>& noise, const std::optional<Tensor>& strength,
                           const std::optional<Tensor>& b, const std::string& act, double alpha, double gain,
                           double clamp) {
  const char* op = "styled_epilogue";
  const Tensor filter = filter_or_one(f, x);
  const auto a = upfirdn2d::arguments(x, filter, 1, 1, 1, 1, pad_x, pad_y, out_h, out_w, flip_filter, filter_gain);
  const Sides sides(op, a.y, scale, noise, strength, b);
  if (a.y.numel() == 0) return a.y;
  const Tensor source = f ? upfirdn2d::readable(x, a.channels_last)
                          : torch::stable::contiguous(x, a.channels_last ? upfirdn2d::MemoryFormat::ChannelsLast
                                                                         : upfirdn2d::MemoryFormat::Contiguous);
  dispatch(x, act, op, [&](auto zero, auto activation) {
    using S = decltype(zero);
    using T = accumulate_t<S>;
    const Layer<T> layer(sides, a.y, a.channels_last, bias_act::parameters<T, S>(alpha, gain, clamp));
    const Finishing<activation.value, S> ends{layer, source, x.size(3) * layer.channels, a.y.numel()};
    if (f) {
      run(upfirdn2d::Job<S>(a, upfirdn2d::read_filter(filter, flip_filter, filter_gain, std::is_same_v<S, double>)),
          ends);
      return;
    }
    S* const y = static_cast<S*>(a.y.mutable_data_ptr());
    blocks_of_rows(layer, x.size(0), out_h, [&](const Block& block, Range rows) {
      const int64_t offset = rows.begin * layer.row_size();
      const int64_t plane = (block.image * layer.planes_per_image + block.plane) * out_h * layer.row_size();
      ends.finish(block, rows, ends.plane(block) + offset, y + plane + offset);
    });
  });
  return a.y;
}

// ---- backward ------------------------------------------------------------------------------------------------------

template <Activation A, typename S>
struct Slopes {
  using T = accumulate_t<S>;
  static constexpr bool loads = true, counts = true, finishes = !std::is_same_v<S, T>;
  const Layer<T>& layer;
  const S *grad_y, *y;
  int64_t height, parts;
  T* totals;         // [planes, parts, sums, channels]; each block adds to its own
  int64_t out_size;  // values of a row of grad_x

  // grad_y · slope · scale of some rows, to wherever `result` has them.
  template <typename Out>
  void write(const Block& block, Range rows, bool owned, Out& result) const {
    const int64_t plane = block.image * layer.planes_per_image + block.plane;
    const int64_t offset = (plane * height + rows.begin) * layer.row_size();
    T* const sums_here = owned ? totals + (plane * parts + block.part) * sums * layer.channels : nullptr;
    const T* const noise = layer.noise_row(block, rows.begin);
    constexpr int64_t ahead = 4096;  // about a block: memory works while the filter does
    T grad_buffer[tile], y_buffer[tile];
    layer.pieces(rows.size() * layer.row_size(), [&](int64_t begin, int64_t end, int64_t pixel, int64_t channel) {
      ask_for(grad_y + offset + begin + ahead, end - begin);
      ask_for(y + offset + begin + ahead, end - begin);
      layer.template backward<A>(block, read(grad_y + offset, begin, end, grad_buffer),
                                 read(y + offset, begin, end, y_buffer), noise, result.place(begin), sums_here,
                                 end - begin, pixel, channel);
      result.finish(begin, end);
    });
  }

  struct Direct {
    T* to;
    T* place(int64_t begin) { return to + begin; }
    void finish(int64_t, int64_t) {}
  };
  void load(const Block& block, Range rows, bool owned, T* to) const {
    Direct result{to};
    write(block, rows, owned, result);
  }
  upfirdn2d::AsItIs vectors(const Block&, Range) const { return {}; }
  void finish(const Block&, Range outputs, const T* from, S* to) const {
    if constexpr (finishes) convert(from, to, outputs.size() * out_size);
  }
};

// The gradients of what lies beside x, from the sums of every block, in their order.
template <typename R>
void finish_sums(const Layer<R>& layer, const std::vector<R>& totals, int64_t parts, Backward& grads) {
  const int64_t channels = layer.b.size(), images = layer.scale.size() / std::max<int64_t>(1, channels);
  std::vector<double> of_b(channels);
  double of_strength = 0;
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t plane = layer.channels == 1 ? n * channels + c : n, lane = layer.channels == 1 ? 0 : c;
      double sum[sums] = {};
      for (int64_t part = 0; part < parts; ++part) {
        const R* const here = totals.data() + (plane * parts + part) * sums * layer.channels + lane;
        for (int k = 0; k < sums; ++k) sum[k] += here[k * layer.channels];
      }
      of_b[c] += sum[0];
      of_strength += sum[1];
      if (grads.grad_scale.numel() > 0) {
        static_cast<R*>(grads.grad_scale.mutable_data_ptr())[n * channels + c] = static_cast<R>(
            grad_scale<double>(sum[0], sum[1], sum[2], layer.strength, layer.b[c], layer.scale[n * channels + c]));
      }
    }
  }
  if (grads.grad_strength.numel() > 0) {
    *static_cast<R*>(grads.grad_strength.mutable_data_ptr()) = static_cast<R>(of_strength);
  }
  if (grads.grad_b.numel() > 0) {
    std::transform(of_b.begin(), of_b.end(), static_cast<R*>(grads.grad_b.mutable_data_ptr()),
                   [](double sum) { return static_cast<R>(sum); });
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> styled_epilogue_backward_cpu(
    const Tensor& grad_y, const Tensor& y, const std::optional<Tensor>& f, int64_t pad_x, int64_t pad_y, int64_t in_h,
    int64_t in_w, bool flip_filter, double filter_gain, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& noise, const std::optional<Tensor>& strength, const std::optional<Tensor>& b,
    const std::string& act, double alpha, double gain, double clamp) {
  const char* op = "styled_epilogue_backward";
  Backward grads(op, grad_y, y, scale.has_value(), noise.has_value(), b.has_value());
  const Sides sides(op, grads.y, scale, noise, strength, b);
  const Tensor filter = filter_or_one(f, y);
  const int64_t tail_x = filter.size(filter.dim() - 1) - 1, tail_y = filter.size(0) - 1;
  const auto a = upfirdn2d::arguments(grads.y, filter, 1, 1, 1, 1, tail_x - pad_x, tail_y - pad_y, in_h, in_w,
                                      !flip_filter, filter_gain);
  dispatch(y, act, op, [&](auto zero, auto activation) {
    using S = decltype(zero);
    using T = accumulate_t<S>;
    const Layer<T> layer(sides, grads.y, grads.channels_last, bias_act::parameters<T, S>(alpha, gain, clamp));
    const int64_t images = y.size(0), height = y.size(2);
    Slopes<activation.value, S> slopes{layer,
                                       static_cast<const S*>(grads.grad_y.const_data_ptr()),
                                       static_cast<const S*>(grads.y.const_data_ptr()),
                                       height,
                                       1,
                                       nullptr,
                                       in_w * layer.channels};
    std::vector<T> totals;
    if (a.y.numel() > 0 && f) {
      const upfirdn2d::Job<S> job(a,
                                  upfirdn2d::read_filter(filter, !flip_filter, filter_gain, std::is_same_v<S, double>));
      slopes.parts = job.blocks_per_plane;
      totals.resize(job.planes() * slopes.parts * sums * layer.channels);
      slopes.totals = totals.data();
      run(job, slopes);
    } else if (a.y.numel() > 0) {
      slopes.parts = upfirdn2d::ceil_div(height, rows_per_block(layer, height));
      totals.resize(images * layer.planes_per_image * slopes.parts * sums * layer.channels);
      slopes.totals = totals.data();
      S* const grad_x = static_cast<S*>(a.y.mutable_data_ptr());
      blocks_of_rows(layer, images, height, [&](const Block& block, Range range) {
        const int64_t plane = block.image * layer.planes_per_image + block.plane;
        Result<S, T> result(grad_x + (plane * height + range.begin) * layer.row_size(), a.y.numel());
        slopes.write(block, range, true, result);
      });
    } else {
      slopes.parts = 0;
    }
    finish_sums(layer, totals, slopes.parts, grads);
  });
  return {a.y, grads.grad_scale, grads.grad_strength, grads.grad_b};
}

}  // namespace
}  // namespace fastunlearn::styled_epilogue

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("styled_epilogue", TORCH_BOX(&fastunlearn::styled_epilogue::styled_epilogue_cpu));
  m.impl("styled_epilogue_backward", TORCH_BOX(&fastunlearn::styled_epilogue::styled_epilogue_backward_cpu));
}
