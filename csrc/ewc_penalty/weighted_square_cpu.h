// The one loop of ewc_penalty and parameter_repulsion on the CPU: Σ f (θ − a)² and scale · f (θ − a) at once.
//
// All parameters form one range of elements, cut into blocks of a fixed size that ignore tensor boundaries.
// A block's sum depends on nothing but the block, and the blocks are added in order: the number of threads
// changes nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "ewc_penalty/parameter_lists.h"

namespace fastunlearn::weighted_square {

// Three or four arrays of a block stay in a core's second-level cache.
constexpr int64_t block_elements = 16384;
// A tensor starts at a multiple of it, so that blocks start on a cache line.
constexpr int64_t alignment = 64;
// Independent sums in a fixed order: what the compiler turns into vectors.
constexpr int lane_count = 16;

// Differences are exact enough in the storage's accumulation type; the sum is not, and runs in double.
template <typename T, bool WithFisher, bool WithValue, bool WithGrad>
FASTUNLEARN_CLONES static double segment(const T* __restrict param, const T* __restrict anchor,
                                         const T* __restrict fisher, T* __restrict grad, int64_t n,
                                         accumulate_t<T> scale) {
  using Acc = accumulate_t<T>;
  double lanes[lane_count] = {};
  const auto element = [&](int64_t i, double& sum) __attribute__((always_inline)) {
    const Acc f = WithFisher ? static_cast<Acc>(fisher[i]) : Acc(1);
    const Acc difference = static_cast<Acc>(param[i]) - static_cast<Acc>(anchor[i]);
    if (WithGrad) grad[i] = static_cast<T>(scale * f * difference);
    if (WithValue) sum += double(f) * double(difference) * double(difference);
  };
  const int64_t whole = n / lane_count * lane_count;
  for (int64_t i = 0; i < whole; i += lane_count) {
    for (int j = 0; j < lane_count; ++j) element(i + j, lanes[j]);
  }
  for (int64_t i = whole; i < n; ++i) element(i, lanes[i - whole]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

template <typename T, bool WithFisher, bool WithValue, bool WithGrad>
double part(const Parameter& parameter, int64_t begin, int64_t end, double scale) {
  const auto at = [begin](const void* data) { return static_cast<const T*>(data) + begin; };
  return parameter.weight * segment<T, WithFisher, WithValue, WithGrad>(
                                at(parameter.param), at(parameter.anchor), WithFisher ? at(parameter.fisher) : nullptr,
                                WithGrad ? static_cast<T*>(parameter.grad) + begin : nullptr, end - begin,
                                static_cast<accumulate_t<T>>(scale * parameter.weight));
}

// Returns Σ_t weight_t Σ_i f_i (θ_i − a_i)²; fills grad_i = scale · weight_t · f_i (θ_i − a_i).
template <bool WithFisher, bool WithValue, bool WithGrad>
double run_cpu(const char* op, const std::vector<Parameter>& parameters, double scale) {
  std::vector<int64_t> starts{0};
  starts.reserve(parameters.size() + 1);
  for (const Parameter& parameter : parameters) {
    starts.push_back(starts.back() + (parameter.numel + alignment - 1) / alignment * alignment);
  }
  const int64_t total = starts.back(), blocks = (total + block_elements - 1) / block_elements;
  std::vector<double> sums(blocks, 0.0);
  parallel_range(blocks, block_elements, [&](int64_t first_block, int64_t last_block) {
    for (int64_t block = first_block; block < last_block; ++block) {
      const int64_t block_begin = block * block_elements, block_end = std::min(total, block_begin + block_elements);
      size_t t = std::upper_bound(starts.begin(), starts.end(), block_begin) - starts.begin() - 1;
      for (; t < parameters.size() && starts[t] < block_end; ++t) {
        const int64_t begin = std::max<int64_t>(0, block_begin - starts[t]);
        const int64_t end = std::min(parameters[t].numel, block_end - starts[t]);
        if (begin >= end) continue;
        dispatch_floating(parameters[t].dtype, op, [&](auto zero) {
          sums[block] += part<decltype(zero), WithFisher, WithValue, WithGrad>(parameters[t], begin, end, scale);
        });
      }
    }
  });
  double sum = 0;
  for (const double block : sums) sum += block;
  return sum;
}

inline Tensor scalar_cpu(const std::vector<Tensor>& params, double value) {
  Tensor out = empty_scalar(params);
  dispatch_floating(out.scalar_type(), "scalar_cpu", [&](auto zero) {
    *static_cast<decltype(zero)*>(out.data_ptr()) = static_cast<decltype(zero)>(value);
  });
  return out;
}

}  // namespace fastunlearn::weighted_square
