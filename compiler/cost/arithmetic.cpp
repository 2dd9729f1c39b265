#include "compiler/cost/arithmetic.h"

#include <array>

namespace mpc {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"f32", "tf32", "f64", "bf16", "f16"};  // in the order of Arithmetic

Arithmetic arithmetic_of(DType dtype) {
  if (dtype == DType::f64) return Arithmetic::f64;
  if (dtype == DType::bf16) return Arithmetic::bf16;
  return dtype == DType::f16 ? Arithmetic::f16 : Arithmetic::f32;
}

}  // namespace

void NarrowestFloat::add(DType dtype) {
  if (is_float(dtype) && (!narrowest_ || dtype_bytes(dtype) < dtype_bytes(*narrowest_))) narrowest_ = dtype;
}

Arithmetic NarrowestFloat::arithmetic(bool rounds_to_tf32) const {
  const Arithmetic result = arithmetic_of(narrowest_.value_or(DType::f32));
  return result == Arithmetic::f32 && rounds_to_tf32 ? Arithmetic::tf32 : result;
}

std::string_view arithmetic_name(Arithmetic arithmetic) {
  return kNames.at(static_cast<size_t>(arithmetic));
}

std::optional<Arithmetic> parse_arithmetic(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Arithmetic>(i);
  }
  return std::nullopt;
}

}  // namespace mpc
