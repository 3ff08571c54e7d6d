// y = clip(gain · act(x + b), ±clamp): the activations, their slopes, and how a dense tensor is walked.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/math.h"

namespace fastunlearn::bias_act {

enum class Activation { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };

constexpr double selu_scale = 1.0507009873554805;
constexpr double selu_alpha = 1.6732632423543772;

// The arguments after the tensors, in the kernel's arithmetic R. A negative clamp is none.
template <typename R>
struct Parameters {
  R alpha, gain, clamp;
  R inverse_gain;  // 0 for gain 0: the slope is 0 then, whatever the activation's output was
};

// In memory order a dense tensor is [outer, channels, inner], with the bias along `channels`.
struct Extent {
  int64_t outer, channels, inner;
  C10_HOST_DEVICE int64_t numel() const { return outer * channels * inner; }
};

// Where an activation has one slope on each side of 0, the sign of y / gain is all that its backward needs: bit i % 32
// of word i / 32, for element i in memory order.
constexpr int sign_bits = 32;
constexpr bool has_two_slopes(Activation a) {
  return a == Activation::relu || a == Activation::lrelu;
}
// The activations whose slope follows from their output without rounding it away.
constexpr bool is_piecewise_linear(Activation a) {
  return a == Activation::linear || has_two_slopes(a);
}
inline int64_t sign_words(int64_t numel) {
  return (numel + sign_bits - 1) / sign_bits;
}

// act(u)
template <Activation A, typename R>
C10_HOST_DEVICE inline R activate(R u, R alpha) {
  if constexpr (A == Activation::relu) return u < 0 ? R(0) : u;  // in this order NaN stays NaN
  if constexpr (A == Activation::lrelu) return u > 0 ? u : u * alpha;
  if constexpr (A == Activation::tanh) return math::tanh(u);
  if constexpr (A == Activation::sigmoid) return math::sigmoid(u);
  if constexpr (A == Activation::elu) return u > 0 ? u : math::expm1_negative(u > 0 ? R(0) : u);
  if constexpr (A == Activation::selu)
    return R(selu_scale) * (u > 0 ? u : R(selu_alpha) * math::expm1_negative(u > 0 ? R(0) : u));
  if constexpr (A == Activation::softplus) return math::softplus(u);
  if constexpr (A == Activation::swish) return u * math::sigmoid(u);
  return u;
}

// act'(u), from the activation's output a = act(u); from u itself for swish, which has no inverse.
template <Activation A, typename R>
C10_HOST_DEVICE inline R slope(R a, R alpha) {
  if constexpr (A == Activation::relu) return a > 0 ? R(1) : R(0);
  if constexpr (A == Activation::lrelu) return a > 0 ? R(1) : alpha;
  if constexpr (A == Activation::tanh) return R(1) - a * a;
  if constexpr (A == Activation::sigmoid) return a * (R(1) - a);
  if constexpr (A == Activation::elu) return a >= 0 ? R(1) : a + R(1);
  if constexpr (A == Activation::selu) return a >= 0 ? R(selu_scale) : a + R(selu_scale * selu_alpha);
  if constexpr (A == Activation::softplus) return -math::expm1_negative(-a);
  if constexpr (A == Activation::swish) {
    const R s = math::sigmoid(a);
    return s * (R(1) + a * (R(1) - s));
  }
  return R(1);
}

// One element forward.
template <Activation A, typename R>
C10_HOST_DEVICE inline R forward_element(R x, R b, const Parameters<R>& p) {
  R y = p.gain * activate<A>(x + b, p.alpha);
  if (p.clamp >= 0) y = y < -p.clamp ? -p.clamp : (y > p.clamp ? p.clamp : y);
  return y;
}

// One element backward; `ref` is y, or x for swish.
template <Activation A, typename R>
C10_HOST_DEVICE inline R backward_element(R grad_y, R ref, R b, const Parameters<R>& p) {
  const R inner = A == Activation::swish ? ref + b : ref * p.inverse_gain;
  const R y = A == Activation::swish ? p.gain * activate<A>(inner, p.alpha) : ref;
  const R grad_x = grad_y * p.gain * slope<A>(inner, p.alpha);
  return p.clamp >= 0 && !(std::abs(y) < p.clamp) ? R(0) : grad_x;
}

// The arguments of the registered op in the kernel's arithmetic. The bound is rounded to the storage type first, so
// that a stored y lies exactly on it or strictly inside, whatever the dtype.
template <typename R, typename T>
Parameters<R> parameters(double alpha, double gain, double clamp) {
  return {R(alpha), R(gain), clamp < 0 ? R(-1) : R(T(clamp)), gain == 0 ? R(0) : R(1 / gain)};
}

// The extent of a dense tensor of `numel` elements, whose bias lies along a dimension of this size and stride.
inline Extent extent_of(int64_t numel, int64_t channels, int64_t stride) {
  if (numel == 0) return {0, channels, 1};
  const int64_t inner = channels == 1 ? numel : stride;
  return {numel / (channels * inner), channels, inner};
}

// Calls body(std::integral_constant<Activation, …>{}) for the name; false if there is no such activation.
template <typename Body>
bool dispatch_activation(const char* name, Body&& body) {
  const auto match = [&](const char* candidate, auto activation) {
    if (std::strcmp(name, candidate) != 0) return false;
    body(activation);
    return true;
  };
  using A = Activation;
  return match("linear", std::integral_constant<A, A::linear>{}) ||
         match("relu", std::integral_constant<A, A::relu>{}) || match("lrelu", std::integral_constant<A, A::lrelu>{}) ||
         match("tanh", std::integral_constant<A, A::tanh>{}) ||
         match("sigmoid", std::integral_constant<A, A::sigmoid>{}) ||
         match("elu", std::integral_constant<A, A::elu>{}) || match("selu", std::integral_constant<A, A::selu>{}) ||
         match("softplus", std::integral_constant<A, A::softplus>{}) ||
         match("swish", std::integral_constant<A, A::swish>{});
}

}  // namespace fastunlearn::bias_act
