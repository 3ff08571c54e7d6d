// list_update on the CPU: one pass, two arrays read and one written.
#pragma once

#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "common/list_update.h"
#include "common/parameter_blocks.h"

namespace fastunlearn {

template <typename Step, typename T>
FASTUNLEARN_CLONES static void update_segment(T* __restrict target, const T* __restrict source, int64_t n,
                                              accumulate_t<T> factor) {
  for (int64_t i = 0; i < n; ++i) target[i] = Step()(target[i], source[i], factor);
}

template <typename Step>
void update_lists_cpu(const char* op, const std::vector<Tensor>& targets, const std::vector<Tensor>& sources,
                      double factor) {
  UpdateLists lists(op, targets, sources);
  ParameterBlocks(lists.parameters()).parallel([&](int64_t, const Parameter& pair, int64_t begin, int64_t end) {
    dispatch_floating(pair.dtype, op, [&](auto zero) {
      using T = decltype(zero);
      update_segment<Step>(static_cast<T*>(pair.result) + begin, static_cast<const T*>(pair.param) + begin, end - begin,
                           static_cast<accumulate_t<T>>(factor));
    });
  });
  lists.finish();
}

}  // namespace fastunlearn
