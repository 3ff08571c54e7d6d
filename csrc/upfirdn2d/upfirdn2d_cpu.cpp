// upfirdn2d on the CPU.
#include <torch/csrc/stable/library.h>

#include "common/tiles_cpu.h"
#include "upfirdn2d/blocks_cpu.h"

namespace fastunlearn::upfirdn2d {
namespace {

// Rows as they are stored; half precision is converted.
template <typename S>
struct Stored {
  using T = accumulate_t<S>;
  static constexpr bool loads = !std::is_same_v<S, T>, counts = false, finishes = loads;
  const Tensor& x;
  int64_t width, row_size;  // values of a row of x, and of y

  const S* plane(const Block& block) const {
    return static_cast<const S*>(x.const_data_ptr()) + block.image * x.stride(0) + block.plane * x.stride(1);
  }
  int64_t row_stride() const { return x.stride(2); }
  void load(const Block& block, Range rows, bool, T* to) const {
    if constexpr (loads) {
      for (int64_t row = rows.begin; row < rows.end; ++row, to += width) {
        convert(plane(block) + row * row_stride(), to, width);
      }
    }
  }
  AsItIs vectors(const Block&, Range) const { return {}; }
  void finish(const Block&, Range outputs, const T* from, S* y) const {
    if constexpr (finishes) convert(from, y, outputs.size() * row_size);
  }
};

Tensor upfirdn2d_cpu(const Tensor& x, const Tensor& f, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                     int64_t pad_x, int64_t pad_y, int64_t out_h, int64_t out_w, bool flip_filter, double gain) {
  const Arguments a = arguments(x, f, up_x, up_y, down_x, down_y, pad_x, pad_y, out_h, out_w, flip_filter, gain);
  if (a.y.numel() == 0) return a.y;
  const Tensor source = readable(x, a.channels_last);
  const Filter filter = read_filter(f, flip_filter, gain, x.scalar_type() == ScalarType::Double);
  dispatch_floating(x.scalar_type(), "upfirdn2d", [&](auto zero) {
    using S = decltype(zero);
    const Job<S> job(a, filter);
    run(job, Stored<S>{source, job.horizontal.in * job.channels, job.row_size()});
  });
  return a.y;
}

}  // namespace
}  // namespace fastunlearn::upfirdn2d

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("upfirdn2d", TORCH_BOX(&fastunlearn::upfirdn2d::upfirdn2d_cpu));
}
