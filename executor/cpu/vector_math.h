#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

// Functions of f32 without branches or calls, so that loops over them become vector code. Errors are relative, over the
// whole range, unless said otherwise. always_inline: into the clone of a loop for another instruction set (support.h)
// GCC inlines nothing else, and then the loop stays scalar.

namespace mpc::cpu {

/// e^x, error below 2e-7; 0 below -87.3 (where f32 has no normal result), infinity above 88.72; NaN stays NaN.
[[gnu::always_inline]] inline float fast_exp(float x) {
  // x = n ln 2 + r, |r| <= ln 2 / 2. ln 2 is split in two, so that n * kHigh is exact.
  constexpr float kHigh = 0.693359375f;
  constexpr float kLow = -2.12194440e-4f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const float limited = x < -87.3f ? -87.3f : (x > 88.72f ? 88.72f : x);
  const float shifted = limited * kLog2E + kRounder;
  const float n = shifted - kRounder;
  const float r = (limited - n * kHigh) - n * kLow;
  // Minimax polynomial of Cephes expf (S. Moshier).
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors: n may be 128.
  const int32_t whole = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRounder);
  const int32_t half = whole >> 1;
  const float scale1 = std::bit_cast<float>((half + 127) << 23);
  const float scale2 = std::bit_cast<float>((whole - half + 127) << 23);
  float y = p * scale1 * scale2;
  y = x < -87.3f ? 0.0f : y;
  y = x > 88.72f ? std::bit_cast<float>(0x7F800000) : y;
  return x != x ? x : y;
}

/// 1 / (1 + e^-x), error below 4e-7.
[[gnu::always_inline]] inline float fast_sigmoid(float x) {
  return 1.0f / (1.0f + fast_exp(-x));
}

/// tanh x, error below 5e-7.
[[gnu::always_inline]] inline float fast_tanh(float x) {
  const float a = std::fabs(x);
  // Near 0 the quotient below would cancel: an odd polynomial there (Cephes tanhf).
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  const float large = 1.0f - 2.0f / (fast_exp(2.0f * a) + 1.0f);
  return a < 0.625f ? small : std::copysign(large, x);
}

/// erf x, absolute error below 5e-7 (and so 1 + erf x where it is small: relative errors there are larger).
[[gnu::always_inline]] inline float fast_erf(float x) {
  const float a = std::fabs(x);
  const float z = x * x;
  // |x| < 1: Cephes erff.
  float p = 7.853861353153693e-5f;
  p = p * z - 8.010193625184903e-4f;
  p = p * z + 5.188327685732524e-3f;
  p = p * z - 2.685381193529856e-2f;
  p = p * z + 1.128358514861418e-1f;
  p = p * z - 3.761262582423300e-1f;
  p = p * z + 1.128379165726710f;
  const float small = p * x;
  // Else 1 - erfc by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  float q = 1.061405429f;
  q = q * t - 1.453152027f;
  q = q * t + 1.421413741f;
  q = q * t - 0.284496736f;
  q = q * t + 0.254829592f;
  const float large = std::copysign(1.0f - q * t * fast_exp(-z), x);
  return a < 1.0f ? small : large;
}

}  // namespace mpc::cpu
