#pragma once

#include <array>
#include <cmath>

namespace mpc::place {

// exp and log from sums and products alone: a library's may differ in the last bit from one machine to the next, and
// the search would end elsewhere.

inline constexpr double kLog2 = 0.6931471805599453;

/// e to the power of x, to about 1e-15.
inline double exp_of(double x) {
  constexpr int kTerms = 18;
  // 1/i: a product takes a fraction of the time of a quotient, and a temperature asks for a thousand of them.
  constexpr auto kInverse = [] {
    std::array<double, kTerms + 1> inverse{};
    for (int i = 1; i <= kTerms; ++i) inverse[static_cast<size_t>(i)] = 1.0 / i;
    return inverse;
  }();
  const double whole = std::floor(x * (1 / kLog2) + 0.5);
  const double rest = x - whole * kLog2;
  double sum = 1;
  for (size_t i = kTerms; i > 0; --i) sum = 1 + sum * rest * kInverse[i];
  return std::ldexp(sum, static_cast<int>(whole));
}

/// The natural logarithm, to about 1e-15. @pre x > 0.
inline double log_of(double x) {
  double y = 0;
  int exponent = 0;
  const double mantissa = std::frexp(x, &exponent);
  const double z = (mantissa - 1) / (mantissa + 1);
  for (int i = 59; i > 0; i -= 2) y = 1.0 / i + z * z * y;
  return 2 * z * y + exponent * kLog2;
}

}  // namespace mpc::place
