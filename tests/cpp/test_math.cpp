// The float functions of common/math.h against double, over every 97th float of their domain.
#include <cmath>
#include <limits>

#include "check.h"
#include "common/math.h"

namespace {

namespace math = fastunlearn::math;

// The largest error over [low, high] in units of the last place of the exact result; below the smallest normal number
// those places are all alike.
template <typename Function, typename Exact>
double worst_ulp(float low, float high, Function function, Exact exact) {
  constexpr double smallest_normal = std::numeric_limits<float>::min();
  double worst = 0;
  const auto visit = [&](float x) {
    const double expected = exact(static_cast<double>(x));
    const double magnitude = std::max(std::abs(expected), smallest_normal);
    const double ulp = std::ldexp(1.0, std::ilogb(magnitude) - 23);
    const double error = std::abs(static_cast<double>(function(x)) - expected) / ulp;
    worst = std::max(worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
  };
  for (uint32_t bits = 0; bits < math::to_bits(std::numeric_limits<float>::infinity()); bits += 97) {
    const float x = math::from_bits(bits);
    if (x >= low && x <= high) visit(x);
    if (-x >= low && -x <= high) visit(-x);
  }
  return worst;
}

void check_ulp(const char* name, double worst, double allowed) {
  std::printf("%-9s %.2f ulp\n", name, worst);
  CHECK(worst <= allowed);
}

double exact_sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
double exact_softplus(double x) {
  return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}

}  // namespace

int main() {
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  using F = float (*)(float);
  using D = double (*)(double);
  const F exp = math::exp, expm1 = math::expm1_negative, log1p = math::log1p_unit;
  check_ulp("exp", worst_ulp(-110, 88.7f, exp, D(std::exp)), 3);
  check_ulp("expm1", worst_ulp(-110, 0, expm1, D(std::expm1)), 3);
  check_ulp("log1p", worst_ulp(0, 1, log1p, D(std::log1p)), 3);
  check_ulp("tanh", worst_ulp(-110, 110, math::tanh<float>, D(std::tanh)), 4);
  check_ulp("sigmoid", worst_ulp(-87, 110, math::sigmoid<float>, exact_sigmoid), 4);
  check_ulp("softplus", worst_ulp(-110, 110, math::softplus<float>, exact_softplus), 4);

  CHECK(math::exp(89.0f) == infinity && math::exp(infinity) == infinity);
  CHECK(math::exp(-infinity) == 0 && math::exp(-105.0f) == 0);
  CHECK(std::isnan(math::exp(nan)) && std::isnan(math::tanh(nan)) && std::isnan(math::softplus(nan)));
  CHECK(math::tanh(infinity) == 1 && math::tanh(-infinity) == -1 && std::signbit(math::tanh(-0.0f)));
  CHECK(math::softplus(infinity) == infinity && math::softplus(-infinity) == 0);
  return report();
}
