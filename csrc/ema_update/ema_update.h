// m ← m + (1 − decay) · (θ − m), for one element.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include "common/dtype.h"

namespace fastunlearn::ema_update {

struct Step {
  template <typename T>
  C10_HOST_DEVICE T operator()(T average, T param, accumulate_t<T> weight) const {
    const auto m = static_cast<accumulate_t<T>>(average);
    return static_cast<T>(m + weight * (static_cast<accumulate_t<T>>(param) - m));
  }
};

}  // namespace fastunlearn::ema_update
