// y = clip(gain · act(scale · v + strength · noise + b), ±clamp), v the filtered x: one element, both ways.
#pragma once

#include "bias_act/bias_act.h"

namespace fastunlearn::styled_epilogue {

using bias_act::Activation;
using bias_act::Parameters;

// g · u, for g the gradient in the activation's input u: these activations are act(u) = act'(u) · u.
template <typename R>
C10_HOST_DEVICE inline R gradient_times_input(R grad_y, R y, const Parameters<R>& p) {
  return p.clamp >= 0 && !(std::abs(y) < p.clamp) ? R(0) : grad_y * y;
}

// What the backward sums over the pixels of one channel of one image.
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
