// One tensor of the lists as the kernels see it.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace fastunlearn {

// Element i of all four arrays belongs together. A missing Fisher counts as ones. `result` is what a kernel writes: a
// gradient, unless it is not wanted, or what it changes in place.
struct Parameter {
  ScalarType dtype;
  int64_t numel;
  double weight;
  const void* param;
  const void* anchor;
  const void* fisher;
  void* result;
};

}  // namespace fastunlearn
