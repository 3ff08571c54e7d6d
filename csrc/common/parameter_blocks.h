// Any number of tensors for a CPU kernel: all of them form one range of elements, cut into blocks of a fixed size that
// ignore tensor boundaries, so that a hundred small tensors cost what one large one does.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/launch.h"
#include "common/parameter.h"

namespace fastunlearn {

class ParameterBlocks {
 public:
  // Three or four arrays of a block stay in a core's second-level cache.
  static constexpr int64_t block_elements = 16384;

  // `parameters` must outlive this.
  explicit ParameterBlocks(const std::vector<Parameter>& parameters) : parameters_(parameters) {
    starts_.reserve(parameters.size() + 1);
    for (const Parameter& parameter : parameters) {
      starts_.push_back(starts_.back() + (parameter.numel + alignment - 1) / alignment * alignment);
    }
  }

  int64_t count() const { return (starts_.back() + block_elements - 1) / block_elements; }

  // Calls body(block, parameter, begin, end) for every piece of a tensor in every block; the pieces of one block come
  // one after another, blocks at once.
  template <typename Body>
  void parallel(const Body& body) const {
    parallel_range(count(), block_elements, [&](int64_t first_block, int64_t last_block) {
      for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t block_begin = block * block_elements, block_end = block_begin + block_elements;
        size_t t = std::upper_bound(starts_.begin(), starts_.end(), block_begin) - starts_.begin() - 1;
        for (; t < parameters_.size() && starts_[t] < block_end; ++t) {
          const int64_t begin = std::max<int64_t>(0, block_begin - starts_[t]);
          const int64_t end = std::min(parameters_[t].numel, block_end - starts_[t]);
          if (begin < end) body(block, parameters_[t], begin, end);
        }
      }
    });
  }

 private:
  // A tensor starts at a multiple of it, so that blocks start on a cache line.
  static constexpr int64_t alignment = 64;

  const std::vector<Parameter>& parameters_;
  std::vector<int64_t> starts_{0};
};

}  // namespace fastunlearn
