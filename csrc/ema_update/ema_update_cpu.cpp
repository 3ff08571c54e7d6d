// ema_update on the CPU: one pass, two arrays read and one written.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "common/parameter_blocks.h"
#include "ema_update/ema_update.h"

namespace fastunlearn::ema_update {
namespace {

template <typename T>
FASTUNLEARN_CLONES void segment(T* __restrict average, const T* __restrict param, int64_t n, accumulate_t<T> weight) {
  for (int64_t i = 0; i < n; ++i) average[i] = step(average[i], param[i], weight);
}

void ema_update_cpu(std::vector<Tensor> averages, std::vector<Tensor> params, double decay) {
  Pairs pairs(averages, params);
  ParameterBlocks(pairs.parameters()).parallel([&](int64_t, const Parameter& pair, int64_t begin, int64_t end) {
    dispatch_floating(pair.dtype, "ema_update_", [&](auto zero) {
      using T = decltype(zero);
      segment(static_cast<T*>(pair.grad) + begin, static_cast<const T*>(pair.param) + begin, end - begin,
              static_cast<accumulate_t<T>>(1 - decay));
    });
  });
  pairs.finish();
}

}  // namespace
}  // namespace fastunlearn::ema_update

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("ema_update_", TORCH_BOX(&fastunlearn::ema_update::ema_update_cpu));
}
