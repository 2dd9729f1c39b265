#include "compiler/ops/widened.h"

#include <fmt/format.h>

#include "compiler/base/text.h"
#include "compiler/ops/gradient.h"

namespace mpc::ops {

AttributeSpec widened_attribute() {
  return {.name = "to", .type = AttributeType::text, .default_value = {}, .is_optional = true};
}

DType widened(const InferContext& context, DType dtype) {
  if (!context.attributes().has("to")) return dtype;
  const std::string& to = context.attributes().text("to");
  if (to != dtype_name(DType::f32) || (dtype != DType::bf16 && dtype != DType::f16)) {
    context.fail(ErrorId::M031, fmt::format("to is '{}' for operands of {}", escaped(to, 100), dtype_name(dtype)),
                 "leave it out; only results of bf16 and f16 may be f32");
  }
  return DType::f32;
}

ValueId narrowed(GradientContext& context, ValueId dy) {
  const DType dtype = context.dtype(context.input(0));
  if (context.dtype(dy) == dtype) return dy;
  return context.emit(OpKind::Cast, {dy}, {{"to", std::string(dtype_name(dtype))}});
}

}  // namespace mpc::ops
