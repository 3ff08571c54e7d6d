// Rows of z against a vector z_e: p = z·z_e / ‖z_e‖, and where p ≥ t the row moved back along z_e.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/macros/Macros.h>

#include "common/block_cache.h"
#include "common/checks.h"
#include "common/dtype.h"
#include "common/memory.h"

namespace fastunlearn::latent_projection {

// The numbers of the formula. `along_unit`: the shift is measured along z_e / ‖z_e‖, not along z_e.
struct Rule {
  double threshold, margin;
  bool along_unit;

  // The same with the threshold as a projection of type P is compared with it.
  template <typename P>
  Rule rounded() const {
    return {static_cast<double>(static_cast<P>(threshold)), margin, along_unit};
  }

  // What z_e is multiplied with before it is taken from a row of this projection.
  C10_HOST_DEVICE double step(double projection, double norm) const {
    const double back = (projection - threshold + margin) / (along_unit ? norm : 1);
    return projection >= threshold ? back : 0;
  }
};

template <typename T>
C10_HOST_DEVICE inline T shifted(T z, T target, double step) {
  using Acc = accumulate_t<T>;
  return static_cast<T>(static_cast<Acc>(z) - static_cast<Acc>(step) * static_cast<Acc>(target));
}

// Checked arguments and allocated results.
struct Arguments {
  Tensor z, target, shifted, projection, mask;
  int64_t rows, columns;
  Rule rule;

  Arguments(const Tensor& latents, const Tensor& direction, const Tensor& norm, const Rule& given)
      : z(latents), target(direction), rule(given) {
    const char* op = "latent_projection";
    STD_TORCH_CHECK(z.dim() == 2 && target.dim() == 1 && target.size(0) == z.size(1), op,
                    ": z must be [n, d] and target [d]");
    check_same_dtype_and_device(z, target, op, "target");
    STD_TORCH_CHECK(norm.scalar_type() == ScalarType::Double && norm.numel() == 1 && norm.device() == z.device(), op,
                    ": norm must be one float64 number on the device of z");
    z = torch::stable::contiguous(z);
    target = torch::stable::contiguous(target);
    rows = z.size(0), columns = z.size(1);
    shifted = in_used_memory(torch::stable::empty_like(z));
    const bool is_double = z.scalar_type() == ScalarType::Double;
    projection = torch::stable::new_empty(z, {rows}, is_double ? ScalarType::Double : ScalarType::Float);
    mask = torch::stable::new_empty(z, {rows}, ScalarType::Bool);
  }
};

}  // namespace fastunlearn::latent_projection
