// The one loop of ewc_penalty and parameter_repulsion on the CPU: Σ f (θ − a)² and scale · f (θ − a) at once.
// A block's sum depends on nothing but the block, and the blocks are added in order: the number of threads changes
// nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.h"
#include "common/launch.h"
#include "common/memory.h"
#include "common/parameter_blocks.h"
#include "common/parameter_lists.h"

namespace fastunlearn::weighted_square {

// Independent sums in a fixed order: what the compiler turns into vectors.
constexpr int lane_count = 16;

enum class Gradient { none, stored, past_caches };

// Differences are exact enough in the storage's accumulation type; the sum is not, and runs in double.
template <typename T, bool WithFisher, bool WithValue, Gradient Grad>
FASTUNLEARN_CLONES static double segment(const T* __restrict param, const T* __restrict anchor,
                                         const T* __restrict fisher, T* __restrict grad, int64_t n,
                                         accumulate_t<T> scale) {
  using Acc = accumulate_t<T>;
  double lanes[lane_count] = {};
  const auto gradient = [&](int64_t i, double& sum) __attribute__((always_inline)) {
    const Acc f = WithFisher ? static_cast<Acc>(fisher[i]) : Acc(1);
    const Acc difference = static_cast<Acc>(param[i]) - static_cast<Acc>(anchor[i]);
    if (WithValue) sum += double(f) * double(difference) * double(difference);
    return static_cast<T>(scale * f * difference);
  };
  const int64_t whole = n / lane_count * lane_count;
  for (int64_t i = 0; i < whole; i += lane_count) {
    alignas(64) T line[lane_count];
    T* out = Grad == Gradient::past_caches ? line : grad + i;
    for (int j = 0; j < lane_count; ++j) {
      const T value = gradient(i + j, lanes[j]);
      if (Grad != Gradient::none) out[j] = value;
    }
    if (Grad == Gradient::past_caches) stream_aligned<sizeof(line)>(line, grad + i);
  }
  for (int64_t i = whole; i < n; ++i) {
    const T last = gradient(i, lanes[i - whole]);
    if (Grad != Gradient::none) grad[i] = last;
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

template <typename T, bool WithFisher, bool WithValue, Gradient Grad>
double part(const Parameter& parameter, int64_t begin, int64_t end, double scale) {
  const auto at = [begin](const void* data) { return static_cast<const T*>(data) + begin; };
  T* grad = Grad == Gradient::none ? nullptr : static_cast<T*>(parameter.result) + begin;
  const double sum = segment<T, WithFisher, WithValue, Grad>(
      at(parameter.param), at(parameter.anchor), WithFisher ? at(parameter.fisher) : nullptr, grad, end - begin,
      static_cast<accumulate_t<T>>(scale * parameter.weight));
  if (Grad == Gradient::past_caches) end_streams();
  return parameter.weight * sum;
}

// Returns Σ_t weight_t Σ_i f_i (θ_i − a_i)²; fills grad_i = scale · weight_t · f_i (θ_i − a_i).
template <bool WithFisher, bool WithValue, Gradient Grad>
double run(const char* op, const ParameterBlocks& blocks, double scale) {
  std::vector<double> sums(blocks.count(), 0.0);
  blocks.parallel([&](int64_t block, const Parameter& parameter, int64_t begin, int64_t end) {
    dispatch_floating(parameter.dtype, op, [&](auto zero) {
      sums[block] += part<decltype(zero), WithFisher, WithValue, Grad>(parameter, begin, end, scale);
    });
  });
  double sum = 0;
  for (const double block : sums) sum += block;
  return sum;
}

// The value alone, and with the gradient.
template <bool WithFisher>
double sum_cpu(const char* op, const std::vector<Parameter>& parameters) {
  return run<WithFisher, true, Gradient::none>(op, ParameterBlocks(parameters), 0.0);
}

// Gradients wait for the rest of a forward and a backward: what a second-level cache does not hold is gone by then.
template <bool WithFisher, bool WithValue>
double gradient_cpu(const char* op, const std::vector<Parameter>& parameters, double scale) {
  constexpr int64_t kept_bytes = int64_t{2} << 20;
  const ParameterBlocks blocks(parameters);
  return streams(blocks.count() * ParameterBlocks::block_elements * int64_t{sizeof(float)}, kept_bytes)
             ? run<WithFisher, WithValue, Gradient::past_caches>(op, blocks, scale)
             : run<WithFisher, WithValue, Gradient::stored>(op, blocks, scale);
}

inline Tensor scalar_cpu(const std::vector<Tensor>& params, double value) {
  Tensor out = empty_scalar(params);
  dispatch_floating(out.scalar_type(), "scalar_cpu", [&](auto zero) {
    *static_cast<decltype(zero)*>(out.data_ptr()) = static_cast<decltype(zero)>(value);
  });
  return out;
}

}  // namespace fastunlearn::weighted_square
