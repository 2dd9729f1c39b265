#pragma once

#include <cstdint>
#include <cstring>

/// Marks a function that runs on the host and, where nvcc compiles it, on a GPU: the same source, so the same bits.
#ifdef __CUDACC__
#define MPC_HD __host__ __device__
#else
#define MPC_HD
#endif

namespace mpc {

/// IEEE binary16 and bfloat16 as storage. Conversions round to nearest even; NaN stays NaN.
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

/// The bits of a float and back. Not std::bit_cast, which nvcc takes for a function of the host.
MPC_HD inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
MPC_HD inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

MPC_HD inline float to_float(bf16 h) {
  return float_of_bits(uint32_t{h.bits} << 16);
}

MPC_HD inline bf16 to_bf16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

MPC_HD inline float to_float(f16 h) {
  const uint32_t sign = uint32_t{h.bits & 0x8000u} << 16;
  const uint32_t exponent = (h.bits >> 10) & 0x1Fu;
  const uint32_t mantissa = h.bits & 0x3FFu;
  if (exponent == 0x1F) return float_of_bits(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0) return float_of_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

MPC_HD inline f16 to_f16(float value) {
  const uint32_t bits = float_bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {static_cast<uint16_t>(sign | 0x7E00u)};
  if (magnitude >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};  // rounds to infinity
  if (magnitude < 0x38800000u) {                                                 // subnormal in f16
    const float scaled = float_of_bits(magnitude) * 0x1p24f;
    uint32_t whole = static_cast<uint32_t>(scaled);
    const float rest = scaled - static_cast<float>(whole);
    if (rest > 0.5f || (rest == 0.5f && (whole & 1u) != 0)) ++whole;
    return {static_cast<uint16_t>(sign | whole)};
  }
  const uint32_t rebased = magnitude - 0x38000000u;
  const uint32_t rounded = rebased + 0xFFFu + ((rebased >> 13) & 1u);
  return {static_cast<uint16_t>(sign | (rounded >> 13))};
}

}  // namespace mpc
