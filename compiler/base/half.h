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

// Of f16 all cases are computed and one is chosen: loops over it become vector code.
MPC_HD inline float to_float(f16 h) {
  const uint32_t sign = uint32_t{h.bits & 0x8000u} << 16;
  const uint32_t exponent = (h.bits >> 10) & 0x1Fu;
  const uint32_t mantissa = h.bits & 0x3FFu;
  const uint32_t special = 0x7F800000u | (mantissa << 13);  // infinity and NaN
  const uint32_t normal = ((exponent + 112) << 23) | (mantissa << 13);
  const uint32_t subnormal = float_bits(static_cast<float>(static_cast<int32_t>(mantissa)) * 0x1p-24f);
  const uint32_t finite = exponent != 0 ? normal : subnormal;
  return float_of_bits(sign | (exponent == 0x1F ? special : finite));
}

MPC_HD inline f16 to_f16(float value) {
  constexpr uint32_t kLeastNormal = 0x38800000u;  // 2^-14
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint32_t special = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;  // NaN, and what rounds to infinity
  const uint32_t rebased = magnitude - 0x38000000u;
  const uint32_t normal = (rebased + 0xFFFu + ((rebased >> 13) & 1u)) >> 13;
  // 0.5 has the last bit of f16's subnormals for its own: the addition rounds to them.
  const uint32_t subnormal = float_bits(float_of_bits(magnitude) + 0.5f) - float_bits(0.5f);
  const uint32_t finite = magnitude < kLeastNormal ? subnormal : normal;
  return {static_cast<uint16_t>(sign | (magnitude >= 0x477FF000u ? special : finite))};
}

}  // namespace mpc
