// The repulsion losses as functions of the squared distance x = d² (arXiv 2309.14054, Eq. 6), and their
// slopes.
#pragma once

#include <torch/headeronly/macros/Macros.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <string>

namespace fastunlearn::parameter_repulsion {

enum class Kind { l2, nl2, il2, el2 };  // l2 is the squared distance itself

struct Loss {
  Kind kind;
  double alpha, spread, weight;

  // Known before the distance is: value and gradient take one pass.
  C10_HOST_DEVICE bool is_linear() const { return kind == Kind::l2 || kind == Kind::nl2; }

  C10_HOST_DEVICE double value(double x) const {
    switch (kind) {
      case Kind::l2:
        return weight * x;
      case Kind::nl2:
        return -weight * x;
      case Kind::il2:
        return weight / x;
      default:
        return weight * exp(-alpha * x);
    }
  }

  // d value / dx; the gradient is 2 · slope · w_t (θ − a).
  C10_HOST_DEVICE double slope(double x) const {
    switch (kind) {
      case Kind::l2:
        return weight;
      case Kind::nl2:
        return -weight;
      case Kind::il2:
        return -weight / (x * x);
      default:
        return -weight * alpha * exp(-alpha * x);
    }
  }
};

inline Loss parse_loss(const std::string& kind, double alpha, double spread, double weight) {
  if (kind == "l2") return {Kind::l2, alpha, spread, weight};
  if (kind == "nl2") return {Kind::nl2, alpha, spread, weight};
  if (kind == "il2") return {Kind::il2, alpha, spread, weight};
  STD_TORCH_CHECK(kind == "el2", "parameter_repulsion: kind must be il2, nl2, el2 or l2, got ", kind);
  return {Kind::el2, alpha, spread, weight};
}

}  // namespace fastunlearn::parameter_repulsion
