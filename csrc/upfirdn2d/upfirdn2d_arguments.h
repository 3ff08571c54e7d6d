// What both halves do before their kernels: check the arguments and allocate the result.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "common/block_cache.h"
#include "common/dtype.h"
#include "common/memory.h"
#include "upfirdn2d/upfirdn2d.h"

namespace fastunlearn::upfirdn2d {

using torch::headeronly::MemoryFormat;
using torch::stable::Tensor;

// Pixels, not channels, lie apart; the same rule as in kernels/upfirdn2d/op.py.
inline bool is_channels_last(const Tensor& x) {
  return x.stride(1) == 1 && x.stride(3) != 1;
}

struct Arguments {
  Tensor x, f, y;
  bool channels_last, flip_filter;
  double gain;
  Axis vertical, horizontal;
};

inline Arguments arguments(const Tensor& x, const Tensor& f, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                           int64_t pad_x, int64_t pad_y, int64_t out_h, int64_t out_w, bool flip_filter, double gain) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(2) > 0 && x.size(3) > 0, "upfirdn2d: x must be [N, C, H, W]");
  STD_TORCH_CHECK((f.dim() == 1 || f.dim() == 2) && f.numel() > 0, "upfirdn2d: f must be [k] or [kh, kw]");
  STD_TORCH_CHECK(f.scalar_type() == ScalarType::Float || f.scalar_type() == ScalarType::Double,
                  "upfirdn2d: f must be float32 or float64");
  STD_TORCH_CHECK(f.device() == x.device(), "upfirdn2d: f must be on the device of x");
  STD_TORCH_CHECK(up_x > 0 && up_y > 0 && down_x > 0 && down_y > 0 && out_h > 0 && out_w > 0,
                  "upfirdn2d: up, down and the output size must be positive");
  const bool channels_last = is_channels_last(x);
  const int64_t size[4] = {x.size(0), x.size(1), out_h, out_w};
  const Tensor y =
      in_used_memory(torch::stable::empty({size, 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                          channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous));
  return {x,
          f,
          y,
          channels_last,
          flip_filter,
          gain,
          {x.size(2), out_h, up_y, down_y, pad_y, f.size(0)},
          {x.size(3), out_w, up_x, down_x, pad_x, f.size(f.dim() - 1)}};
}

}  // namespace fastunlearn::upfirdn2d
