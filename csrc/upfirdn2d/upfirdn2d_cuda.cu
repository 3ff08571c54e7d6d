// upfirdn2d on CUDA: registration.
#include <torch/csrc/stable/library.h>

#include "upfirdn2d/upfirdn2d_launch.cuh"

namespace fastunlearn::upfirdn2d {
namespace {

Tensor upfirdn2d_cuda(const Tensor& x, const Tensor& f, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                      int64_t pad_x, int64_t pad_y, int64_t out_h, int64_t out_w, bool flip_filter, double gain) {
  const CudaLauncher launch("upfirdn2d", x);
  const Arguments a = arguments(x, f, up_x, up_y, down_x, down_y, pad_x, pad_y, out_h, out_w, flip_filter, gain);
  if (a.y.numel() == 0) return a.y;
  dispatch_floating(x.scalar_type(), "upfirdn2d",
                    [&](auto zero) { launch_filter<decltype(zero)>(launch, a, Unchanged{}); });
  return a.y;
}

}  // namespace
}  // namespace fastunlearn::upfirdn2d

FASTUNLEARN_CUDA_IMPL(m) {
  m.impl("upfirdn2d", TORCH_BOX(&fastunlearn::upfirdn2d::upfirdn2d_cuda));
}
