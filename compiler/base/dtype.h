#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mpc {

/// Element types. f16 and bf16 are storage types: arithmetic on them is done in f32.
enum class DType : uint8_t { f32, f64, f16, bf16, i8, i16, i32, i64, u8, u16, u32, u64, boolean };

inline constexpr int kDTypeCount = 13;

/// Bytes of one element.
int64_t dtype_bytes(DType dtype);
/// The name used in text, plans and messages: "f32", "i64", "bool".
std::string_view dtype_name(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);
bool is_float(DType dtype);
bool is_integer(DType dtype);  // signed and unsigned, not bool
bool is_signed_integer(DType dtype);

}  // namespace mpc
