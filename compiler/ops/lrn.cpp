#include <algorithm>

#include <fmt/format.h>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

// Local response normalization over the channels of x (N, C, d1...). ONNX 13.

namespace mpc::ops {
namespace {

std::vector<AttributeSpec> lrn_attributes() {
  return {{"alpha", AttributeType::number, 1e-4},
          {"beta", AttributeType::number, 0.75},
          {"bias", AttributeType::number, 1.0},
          {"size", AttributeType::integer}};
}

void infer_lrn(InferContext& context) {
  context.require_float(0);
  context.require_min_rank(0, 2);
  const int64_t size = context.attributes().integer("size");
  if (size < 1) context.fail(ErrorId::M031, fmt::format("size is {}, must be 1 or more", size));
  context.set_output(0, context.input(0).dtype, context.input(0).shape);
}

void infer_lrn_grad(InferContext& context) {
  context.require_same_dtype(0, 1);
  if (context.input(0).shape != context.input(1).shape) {
    context.fail(ErrorId::M032, fmt::format("dy {} and x {} differ", to_string(context.input(0).shape),
                                            to_string(context.input(1).shape)));
  }
  infer_lrn(context);
}

void lrn_gradient(GradientContext& context) {
  context.set_input_grad(
      0, context.emit(OpKind::LRNGrad, {context.output_grad(0), context.input(0)}, context.attributes()));
}

double channel_window(const CostContext& context) {
  const int64_t size = context.attributes.integer("size");
  return static_cast<double>(std::min(size, context.input(0).shape[1]));
}
/// A multiply-add per channel of the window, then power and division.
OpQuantities lrn_cost(const CostContext& context) {
  return {.flops = static_cast<double>(context.input(0).shape.elements()) * (2.0 * channel_window(context) + 4.0)};
}
/// The window twice: for the denominators, and for the sum over the outputs that an input takes part in.
OpQuantities lrn_grad_cost(const CostContext& context) {
  return {.flops = static_cast<double>(context.input(0).shape.elements()) * (4.0 * channel_window(context) + 8.0)};
}

}  // namespace

/// y = x / (bias + alpha / size * sum(x_j^2))^beta, j over the channels c - floor((size - 1) / 2) to c + ceil((size -
/// 1) / 2) that exist. Accumulates in double (reference) or f32. 2 size + 4 FLOPs per element. ONNX 13.
extern const OpDef LRN_def;
const OpDef LRN_def = {
    .op = OpKind::LRN,
    .attributes = lrn_attributes(),
    .infer = infer_lrn,
    .gradient = lrn_gradient,
    .cost = lrn_cost,
};

/// dx of LRN from (dy, x): with s the base of the power, dx_c = dy_c s_c^-beta
/// - 2 alpha beta / size x_c sum over the outputs j that x_c takes part in of dy_j x_j s_j^(-beta - 1).
extern const OpDef LRNGrad_def;
const OpDef LRNGrad_def = {
    .op = OpKind::LRNGrad,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = lrn_attributes(),
    .infer = infer_lrn_grad,
    .differentiable = Differentiable::no,
    .cost = lrn_grad_cost,
};

}  // namespace mpc::ops
