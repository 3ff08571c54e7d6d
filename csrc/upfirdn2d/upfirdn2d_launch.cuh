// Tile sizes and launch of the upfirdn2d kernel, for every op whose formula contains it.
#pragma once

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

Filter filter_of(const Arguments& a) {
  const bool one_dimensional = a.f.dim() == 1;
  return {a.f.const_data_ptr(),
          one_dimensional ? 0 : a.f.stride(0),
          a.f.stride(a.f.dim() - 1),
          static_cast<int>(a.vertical.taps),
          static_cast<int>(a.horizontal.taps),
          one_dimensional,
          a.f.scalar_type() == ScalarType::Double,
          a.flip_filter,
          a.gain};
}

// That its Taps take of shared memory.
int64_t elements_of(const Filter& filter) {
  return filter.h + filter.w + (filter.one_dimensional ? 0 : int64_t{filter.h} * filter.w);
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

// Filters a.x, and stores finish(result, image, channel, row, column) in a.y. S is the type of both.
template <typename S, typename Finish>
void launch_filter(const CudaLauncher& launch, const Arguments& a, const Finish& finish) {
  using T = accumulate_t<S>;
  const Tensor& x = a.x;
  const Filter filter = filter_of(a);
  const int64_t filter_elements = elements_of(filter);
  const Tiling tiles = tile(a, sizeof(T), filter_elements);
  const Problem problem{a.vertical, a.horizontal, x.size(0), x.size(1), strides(x), strides(a.y), filter, tiles};
  const int64_t elements = filter_elements + int64_t{tiles.rows} * tiles.samples * tiles.channels;
  launch(upfirdn2d_kernel<S, T, Finish>, grid_for(x.size(0) * tiles.deep * tiles.down * tiles.across, 1), block_threads,
         elements * sizeof(T), static_cast<const S*>(x.const_data_ptr()), static_cast<S*>(a.y.mutable_data_ptr()),
         problem, finish);
}

}  // namespace
}  // namespace fastunlearn::upfirdn2d
