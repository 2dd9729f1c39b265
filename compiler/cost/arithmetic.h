#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "compiler/base/dtype.h"

namespace mpc {

/// What a kernel computes in, as far as its speed depends on it: the narrowest type of its float operands and results
/// (a product of bf16 that writes f32 runs at the rate of bf16), f32 where it has none. tf32: f32 whose products round
/// their operands.
enum class Arithmetic : uint8_t { f32, tf32, f64, bf16, f16 };

/// Finds it from the types of a node's operands and results.
class NarrowestFloat {
 public:
  void add(DType dtype);
  /// @param rounds_to_tf32  products of f32 may round their operands
  Arithmetic arithmetic(bool rounds_to_tf32) const;

 private:
  std::optional<DType> narrowest_;
};

/// "f32", "tf32", ...
std::string_view arithmetic_name(Arithmetic arithmetic);
std::optional<Arithmetic> parse_arithmetic(std::string_view name);

}  // namespace mpc
