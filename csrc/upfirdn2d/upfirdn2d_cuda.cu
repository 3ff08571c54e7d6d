// upfirdn2d on CUDA: tile sizes, launch and registration.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "common/launch.h"
#include "upfirdn2d/upfirdn2d_arguments.h"
#include "upfirdn2d/upfirdn2d_kernel.cuh"

namespace fastunlearn::upfirdn2d {
namespace {

constexpr int64_t tile_pixels = 1024, shared_bytes_limit = 48 * 1024;

Image strides(const Tensor& t) {
  return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// The samples of a row that `columns` neighbouring outputs meet, at most.
int64_t samples_for(const Axis& axis, int64_t columns) {
  return (columns * axis.down + axis.taps - 1) / axis.up + 1;
}

// Wide in the direction that is dense in memory, and as many channels as small images leave room for; halved until the
// rows between the two passes fit beside the filter.
Tiling tile(const Arguments& a, int64_t bytes_per_element, int64_t filter_elements) {
  const int64_t channels = a.x.size(1);
  int64_t columns = std::min<int64_t>(a.horizontal.out, a.channels_last ? 8 : 64);
  int64_t deep = std::min<int64_t>(channels, a.channels_last ? 32 : 1);
  int64_t rows = std::min(a.vertical.out, std::max<int64_t>(1, tile_pixels / (columns * deep)));
  deep = std::min(channels, std::max(deep, tile_pixels / (columns * rows)));
  const auto shared_bytes = [&] {
    return (filter_elements + rows * samples_for(a.horizontal, columns) * deep) * bytes_per_element;
  };
  for (int64_t* size : {&rows, &deep, &columns}) {
    while (*size > 1 && shared_bytes() > shared_bytes_limit) *size = (*size + 1) / 2;
  }
  STD_TORCH_CHECK(shared_bytes() <= shared_bytes_limit, "upfirdn2d: f must fit into shared memory, got ",
                  a.vertical.taps, " x ", a.horizontal.taps, " taps");
  return {static_cast<int>(rows),         static_cast<int>(columns),
          static_cast<int>(deep),         static_cast<int>(samples_for(a.horizontal, columns)),
          ceil_div(a.vertical.out, rows), ceil_div(a.horizontal.out, columns),
          ceil_div(channels, deep),       a.channels_last};
}

Tensor upfirdn2d_cuda(const Tensor& x, const Tensor& f, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                      int64_t pad_x, int64_t pad_y, int64_t out_h, int64_t out_w, bool flip_filter, double gain) {
  const CudaLauncher launch("upfirdn2d", x);
  const Arguments a = arguments(x, f, up_x, up_y, down_x, down_y, pad_x, pad_y, out_h, out_w, flip_filter, gain);
  if (a.y.numel() == 0) return a.y;
  const bool one_dimensional = f.dim() == 1;
  const Filter filter{f.const_data_ptr(),
                      one_dimensional ? 0 : f.stride(0),
                      f.stride(f.dim() - 1),
                      static_cast<int>(a.vertical.taps),
                      static_cast<int>(a.horizontal.taps),
                      one_dimensional,
                      f.scalar_type() == ScalarType::Double,
                      flip_filter,
                      gain};
  dispatch_floating(x.scalar_type(), "upfirdn2d", [&](auto zero) {
    using S = decltype(zero);
    using T = accumulate_t<S>;
    const int64_t filter_elements = filter.h + filter.w + (one_dimensional ? 0 : a.vertical.taps * a.horizontal.taps);
    const Tiling tiles = tile(a, sizeof(T), filter_elements);
    const Problem problem{a.vertical, a.horizontal, x.size(0), x.size(1), strides(x), strides(a.y), filter, tiles};
    const int64_t elements = filter_elements + int64_t{tiles.rows} * tiles.samples * tiles.channels;
    launch(upfirdn2d_kernel<S, T>, grid_for(x.size(0) * tiles.deep * tiles.down * tiles.across, 1), block_threads,
           elements * sizeof(T), static_cast<const S*>(x.const_data_ptr()), static_cast<S*>(a.y.mutable_data_ptr()),
           problem);
  });
  return a.y;
}

}  // namespace
}  // namespace fastunlearn::upfirdn2d

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("upfirdn2d", TORCH_BOX(&fastunlearn::upfirdn2d::upfirdn2d_cuda));
}
