// The op that gives kept memory back.
#include "common/block_cache.h"

#include <torch/csrc/stable/library.h>

namespace fastunlearn {
namespace {

int64_t empty_cache() {
#if FASTUNLEARN_KEEPS_BLOCKS
  return static_cast<int64_t>(BlockCache::shared().release(0));
#else
  return 0;
#endif
}

}  // namespace
}  // namespace fastunlearn

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CompositeExplicitAutograd, m) {
  m.impl("empty_cache", TORCH_BOX(&fastunlearn::empty_cache));
}
