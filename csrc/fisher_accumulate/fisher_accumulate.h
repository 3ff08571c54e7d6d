// F ← F + weight · g², for one element.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include "common/dtype.h"

namespace fastunlearn::fisher_accumulate {

struct Step {
  template <typename T>
  C10_HOST_DEVICE T operator()(T fisher, T grad, accumulate_t<T> weight) const {
    const auto g = static_cast<accumulate_t<T>>(grad);
    return static_cast<T>(static_cast<accumulate_t<T>>(fisher) + weight * (g * g));
  }
};

}  // namespace fastunlearn::fisher_accumulate
