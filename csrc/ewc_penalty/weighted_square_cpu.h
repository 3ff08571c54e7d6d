// The one loop of ewc_penalty and parameter_repulsion on the CPU: Σ f (θ − a)² and scale · f (θ − a) at once.
// A block's sum depends on nothing but the block, and the blocks are added in order: the number of threads changes
// nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "common/parameter_blocks.h"
#include "common/parameter_lists.h"
#include "common/tiles_cpu.h"

namespace fastunlearn::weighted_square {

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

// Gradients that go past the caches do so tile by tile.
template <typename T, bool WithFisher, bool WithValue, bool WithGrad>
double part(const Parameter& parameter, int64_t begin, int64_t end, double scale, bool past_caches) {
  T* grad = static_cast<T*>(parameter.result);
  const auto run = [&](int64_t from, int64_t to, T* out) {
    const auto at = [from](const void* data) { return static_cast<const T*>(data) + from; };
    return segment<T, WithFisher, WithValue, WithGrad>(at(parameter.param), at(parameter.anchor),
                                                       WithFisher ? at(parameter.fisher) : nullptr, out, to - from,
                                                       static_cast<accumulate_t<T>>(scale * parameter.weight));
  };
  if (!past_caches) return parameter.weight * run(begin, end, WithGrad ? grad + begin : nullptr);
  alignas(64) T buffer[tile];
  double sum = 0;
  for (int64_t i = begin; i < end; i += tile) {
    const int64_t stop = std::min(i + tile, end);
    sum += run(i, stop, buffer);
    stream(buffer, grad + i, (stop - i) * sizeof(T));
  }
  end_streams();
  return parameter.weight * sum;
}

// Returns Σ_t weight_t Σ_i f_i (θ_i − a_i)²; fills grad_i = scale · weight_t · f_i (θ_i − a_i).
template <bool WithFisher, bool WithValue, bool WithGrad>
double run_cpu(const char* op, const std::vector<Parameter>& parameters, double scale) {
  const ParameterBlocks blocks(parameters);
  std::vector<double> sums(blocks.count(), 0.0);
  const bool past_caches = WithGrad && streams(blocks.count() * ParameterBlocks::block_elements * sizeof(float));
  blocks.parallel([&](int64_t block, const Parameter& parameter, int64_t begin, int64_t end) {
    dispatch_floating(parameter.dtype, op, [&](auto zero) {
      sums[block] += part<decltype(zero), WithFisher, WithValue, WithGrad>(parameter, begin, end, scale, past_caches);
    });
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
