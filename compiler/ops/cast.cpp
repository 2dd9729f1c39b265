// Cast: y[i] = x[i] as another dtype (ONNX opset 27). The attribute `to` is a dtype name ("f32").
//
// Float to float rounds to nearest even. Float to integer truncates towards zero; what is outside the range of the
// dtype becomes its nearest end, NaN becomes 0. Integer to integer keeps the low bits; integer to float rounds to
// nearest even (to f16 and bf16 through f32). Anything other than 0 is true. One FLOP per element is counted. Gradient:
// a Cast back.

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {
namespace {

void infer_cast(InferContext& context) {
  const std::string& to = context.attributes().text("to");
  const auto dtype = parse_dtype(to);
  if (!dtype) context.fail(ErrorId::M031, "to is '" + escaped(to, 100) + "'", "use a dtype name such as f32");
  context.set_output(0, *dtype, context.input(0).shape);
}

void gradient_cast(GradientContext& context) {
  const DType from = context.dtype(context.input(0));
  if (!context.needs(0) || !is_float(from) || !is_float(context.dtype(context.output(0)))) return;
  // Sums of gradients may be f32 where the value is less.
  if (context.dtype(context.output_grad(0)) == from) return context.set_input_grad(0, context.output_grad(0));
  context.set_input_grad(0,
                         context.emit(OpKind::Cast, {context.output_grad(0)}, {{"to", std::string(dtype_name(from))}}));
}

}  // namespace

extern const OpDef Cast_def;
const OpDef Cast_def = {
    .op = OpKind::Cast,
    .attributes = {{.name = "to", .type = AttributeType::text}},
    .infer = infer_cast,
    .gradient = gradient_cast,
};

}  // namespace mpc::ops
