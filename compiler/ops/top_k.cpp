// TopK (ONNX opset 27): the k greatest (least) elements along an axis, and where they were.

#include <fmt/format.h>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {
namespace {

void infer_top_k(InferContext& context) {
  if (context.input(0).dtype == DType::boolean) context.fail(ErrorId::M030, "input 0 is bool, a number is needed");
  context.require_min_rank(0, 1);
  const Shape& x = context.input(0).shape;
  const int axis = context.axis("axis", x.rank());
  const int64_t k = context.attributes().integer("k");
  if (k < 0 || k > x[axis]) {
    context.fail(ErrorId::M032, fmt::format("k is {}, and there are {} elements along axis {}", k, x[axis], axis));
  }
  context.set_attribute("axis", int64_t{axis});
  Shape shape = x;
  shape.set(axis, k);
  context.set_output(0, context.input(0).dtype, shape);
  context.set_output(1, DType::i64, shape);
}

void gradient_top_k(GradientContext& context) {
  if (!context.needs(0)) return;
  const ValueId x = context.input(0);
  const ValueId zeros = context.fill(0, context.dtype(x), context.shape(x));
  context.set_input_grad(0, context.emit(OpKind::ScatterElements, {zeros, context.output(1), context.output_grad(0)},
                                         {{"axis", context.attributes().integer("axis")}}));
}

/// As many comparisons per element as passes over the axis, and at most a sort's.
OpQuantities cost_top_k(const CostContext& context) {
  return {.flops = static_cast<double>(context.input(0).shape.elements())};
}

}  // namespace

extern const OpDef TopK_def;

/// Outputs the elements, the greatest (`largest` = 0: the least) first, and their indices along `axis`. Of equals the
/// one with the lower index comes first; NaN counts as the greatest (least). `sorted` = 0 asks for no order; they are
/// sorted all the same. The operand K is static. One FLOP per element of x.
const OpDef TopK_def = {
    .op = OpKind::TopK,
    .min_outputs = 2,
    .max_outputs = 2,
    .attributes = {{"axis", AttributeType::integer, int64_t{-1}},
                   {"k", AttributeType::integer},
                   {"largest", AttributeType::integer, int64_t{1}},
                   {"sorted", AttributeType::integer, int64_t{1}}},
    .static_operands = {{1, "k"}},
    .infer = infer_top_k,
    .gradient = gradient_top_k,
    .cost = cost_top_k,
};

}  // namespace mpc::ops
