// Cast: y[i] = x[i] as another dtype (ONNX opset 27). The attribute `to` is a dtype name ("f32").
//
// Float to float rounds to nearest even. Float to integer truncates towards zero; what is outside the range of the
// dtype becomes its nearest end, NaN becomes 0. Integer to integer keeps the low bits; integer to float rounds to
// nearest even (to f16 and bf16 through f32). Anything other than 0 is true. One FLOP per element is counted. Gradient:
// a Cast back. One node may cast any number of tensors of one dtype (passes/batch_casts).

#include <fmt/format.h>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {
namespace {

void infer_cast(InferContext& context) {
  const std::string& to = context.attributes().text("to");
  const auto dtype = parse_dtype(to);
  if (!dtype) context.fail(ErrorId::M031, "to is '" + escaped(to, 100) + "'", "use a dtype name such as f32");
  if (context.output_count() != context.input_count()) {
    context.fail(ErrorId::M022, fmt::format("has {} inputs and {} outputs, they must be as many", context.input_count(),
                                            context.output_count()));
  }
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.has_input(i)) context.fail(ErrorId::M022, fmt::format("input {} is required", i));
    context.require_same_dtype(i, 0);
    context.set_output(i, *dtype, context.input(i).shape);
  }
}

void gradient_cast(GradientContext& context) {
  for (int i = 0; i < context.input_count(); ++i) {
    const DType from = context.dtype(context.input(i));
    if (!context.needs(i) || !is_float(from) || !is_float(*parse_dtype(context.attributes().text("to")))) continue;
    const ValueId gradient = context.output_grad(i);
    if (!gradient.is_valid()) {
      context.set_input_grad(i, context.fill(0, from, context.shape(context.input(i))));
    } else if (context.dtype(gradient) == from) {  // sums of gradients may be f32 where the value is less
      context.set_input_grad(i, gradient);
    } else {
      context.set_input_grad(i, context.emit(OpKind::Cast, {gradient}, {{"to", std::string(dtype_name(from))}}));
    }
  }
}

OpQuantities cast_cost(const CostContext& context) {
  double elements = 0;
  for (const auto& output : context.outputs) elements += output ? static_cast<double>(output->shape.elements()) : 0;
  return {.flops = elements};
}

}  // namespace

extern const OpDef Cast_def;
const OpDef Cast_def = {
    .op = OpKind::Cast,
    .max_inputs = OpDef::kVariadic,
    .max_outputs = OpDef::kVariadic,
    .attributes = {{.name = "to", .type = AttributeType::text}},
    .infer = infer_cast,
    .gradient = gradient_cast,
    .cost = cast_cost,
};

}  // namespace mpc::ops
