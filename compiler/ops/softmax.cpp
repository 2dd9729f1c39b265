#include <fmt/format.h>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

// Softmax and LogSoftmax along one axis (ONNX 13). Any shape.

namespace mpc::ops {
namespace {

void infer_softmax(InferContext& context) {
  context.require_float(0);
  const TensorType& x = context.input(0);
  context.set_attribute("axis", int64_t{context.axis("axis", x.shape.rank())});
  context.set_output(0, x.dtype, x.shape);
}

void infer_softmax_grad(InferContext& context) {
  context.require_same_dtype(0, 1);
  if (context.input(0).shape != context.input(1).shape) {
    context.fail(ErrorId::M032, fmt::format("dy {} and y {} differ", to_string(context.input(0).shape),
                                            to_string(context.input(1).shape)));
  }
  infer_softmax(context);
}

void softmax_gradient(GradientContext& context) {
  context.set_input_grad(
      0, context.emit(OpKind::SoftmaxGrad, {context.output_grad(0), context.output(0)}, context.attributes()));
}

void log_softmax_gradient(GradientContext& context) {
  context.set_input_grad(
      0, context.emit(OpKind::LogSoftmaxGrad, {context.output_grad(0), context.output(0)}, context.attributes()));
}

/// Forward: max, subtract, exp, sum, divide. Backward: multiply, sum, subtract, multiply.
OpQuantities softmax_cost(const CostContext& context) {
  return {.flops = 5.0 * static_cast<double>(context.output(0).shape.elements())};
}
OpQuantities softmax_grad_cost(const CostContext& context) {
  return {.flops = 4.0 * static_cast<double>(context.output(0).shape.elements())};
}

}  // namespace

/// y = exp(x - max) / sum(exp(x - max)) along `axis`. Accumulates in double (reference) or f32. 5 FLOPs per element.
/// ONNX 13.
extern const OpDef Softmax_def;
const OpDef Softmax_def = {
    .op = OpKind::Softmax,
    .attributes = {{"axis", AttributeType::integer, int64_t{-1}}},
    .infer = infer_softmax,
    .gradient = softmax_gradient,
    .cost = softmax_cost,
};

/// dx = y (dy - sum(dy y)) from (dy, y). 4 FLOPs per element.
extern const OpDef SoftmaxGrad_def;
const OpDef SoftmaxGrad_def = {
    .op = OpKind::SoftmaxGrad,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"axis", AttributeType::integer, int64_t{-1}}},
    .infer = infer_softmax_grad,
    .differentiable = Differentiable::no,
    .cost = softmax_grad_cost,
};

/// y = x - max - log(sum(exp(x - max))) along `axis`. Accumulates in double (reference) or f32. 5 FLOPs per element.
/// ONNX 13.
extern const OpDef LogSoftmax_def;
const OpDef LogSoftmax_def = {
    .op = OpKind::LogSoftmax,
    .attributes = {{"axis", AttributeType::integer, int64_t{-1}}},
    .infer = infer_softmax,
    .gradient = log_softmax_gradient,
    .cost = softmax_cost,
};

/// dx = dy - exp(y) sum(dy) from (dy, y). 4 FLOPs per element.
extern const OpDef LogSoftmaxGrad_def;
const OpDef LogSoftmaxGrad_def = {
    .op = OpKind::LogSoftmaxGrad,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"axis", AttributeType::integer, int64_t{-1}}},
    .infer = infer_softmax_grad,
    .differentiable = Differentiable::no,
    .cost = softmax_grad_cost,
};

}  // namespace mpc::ops
