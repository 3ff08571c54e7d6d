// y = clip(gain · act(scale · v + strength · noise + b), ±clamp), v the filtered x: one element, both ways.
#pragma once

#include "bias_act/bias_act.h"

namespace fastunlearn::styled_epilogue {

using bias_act::Activation;
using bias_act::Parameters;

// The activations whose slope and input follow from their output without rounding it away.
constexpr bool is_piecewise_linear(Activation a) {
  return a == Activation::linear || bias_act::has_two_slopes(a);
}

// The activation's input where its slope is not 0; anything finite where it is.
template <Activation A, typename R>
C10_HOST_DEVICE inline R input_of(R y, const Parameters<R>& p) {
  const R a = y * p.inverse_gain;
  if constexpr (A == Activation::lrelu) return a > 0 || p.alpha == 0 ? a : a / p.alpha;
  return a;
}

// What the backward sums over the pixels of one channel of one image; g is the gradient in the activation's input u.
//   grad_b        = Σ g
//   grad_strength = Σ g · noise
//   grad_scale    = Σ g · v = (Σ g · u − strength · Σ g · noise − b · Σ g) / scale
// so that v, which nobody kept, need not be computed again.
constexpr int sums = 3;
template <typename R>
C10_HOST_DEVICE inline R grad_scale(R of_g, R of_g_noise, R of_g_u, R strength, R b, R scale) {
  return (of_g_u - strength * of_g_noise - b * of_g) / scale;
}

}  // namespace fastunlearn::styled_epilogue
