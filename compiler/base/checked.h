#pragma once

#include <cstdint>
#include <optional>

namespace mpc {

/// The largest tensor mpc accepts, in bytes.
inline constexpr int64_t kMaxTensorBytes = int64_t{1} << 47;

/// a + b, a * b, a - b, or nothing when the result does not fit. All size arithmetic on untrusted numbers goes through
/// these.
[[nodiscard]] inline std::optional<int64_t> checked_add(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}
[[nodiscard]] inline std::optional<int64_t> checked_sub(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_sub_overflow(a, b, &r)) return std::nullopt;
  return r;
}
[[nodiscard]] inline std::optional<int64_t> checked_mul(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

/// `bytes` rounded up to a multiple of `alignment` (a power of two). @pre bytes <= kMaxTensorBytes.
inline int64_t align_up(int64_t bytes, int64_t alignment) {
  return (bytes + alignment - 1) & ~(alignment - 1);
}

}  // namespace mpc
