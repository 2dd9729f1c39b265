// Operators of a training step: Dropout, the accumulation of gradients, the optimizers, and Transfer.
//
// Optimizers follow PyTorch's formulas. They compute in f32 (f64 for f64 parameters) in the order that stands in
// executor/functors/update.h and round once to the dtype of the parameter; parameter, gradient and state have the same
// dtype. Operands shared by all of them:
//   step        i64 scalar: 1 for the first update
//   lr_scale    f32 scalar: multiplies the attribute lr (learning-rate schedules)
//   grad_scale  f32 scalar, may be absent (1): multiplies the gradient (loss scaling, norm clipping). NaN: parameter
//               and state stay as they are
// One node may update any number of tensors of one dtype: the operands of each stand one after another, then the
// scalars for all. Tensors do not touch each other, so the bits are those of a node for each.

#include <cmath>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {
namespace {

constexpr int kMostAccumulateInputs = 3;

void require_number_in(InferContext& context, std::string_view name, double low, double high_excluded) {
  const double value = context.attributes().number(name);
  if (value >= low && value < high_excluded) return;
  context.fail(ErrorId::M031, std::string(name) + " is " + std::to_string(value) + ", it must be at least " +
                                  std::to_string(low) + " and below " + std::to_string(high_excluded));
}

void require_finite(InferContext& context, std::string_view name) {
  if (!std::isfinite(context.attributes().number(name))) {
    context.fail(ErrorId::M031, std::string(name) + " is not finite");
  }
}

void require_type_of(InferContext& context, int i, int like) {
  context.require_same_dtype(i, like);
  if (context.input(i).shape == context.input(like).shape) return;
  context.fail(ErrorId::M032, "input " + std::to_string(i) + " has shape " + to_string(context.input(i).shape) +
                                  ", input " + std::to_string(like) + " has shape " +
                                  to_string(context.input(like).shape) + ", they must be the same");
}

void require_scalar(InferContext& context, int i, DType dtype) {
  const TensorType& type = context.input(i);
  if (type.dtype != dtype) {
    context.fail(ErrorId::M030, "input " + std::to_string(i) + " is " + std::string(dtype_name(type.dtype)) + ", " +
                                    std::string(dtype_name(dtype)) + " is needed");
  }
  context.require_rank(i, 0);
}

void infer_dropout(InferContext& context) {
  context.require_float(0);
  require_number_in(context, "ratio", 0, 1);
  context.set_output(0, context.input(0).dtype, context.input(0).shape);
}

void gradient_dropout(GradientContext& context) {
  if (!context.needs(0)) return;
  context.set_input_grad(0, context.emit(OpKind::Dropout, {context.output_grad(0)}, context.attributes()));
}

// Per element: a quarter of a Philox block (10 rounds of about 12 operations, so 30), a comparison and a product.
OpQuantities cost_dropout(const CostContext& context) {
  return {.flops = 32.0 * static_cast<double>(context.output(0).shape.elements())};
}

// A product and what is added to it: (a, acc, b).
void infer_accumulated_product(InferContext& context) {
  for (const int operand : {0, 2}) context.require_rank(operand, 2);
  context.require_same_dtype(0, 2);
  const DType dtype = context.input(0).dtype;
  if ((dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) || context.input(1).dtype != DType::f32) {
    context.fail(ErrorId::M030, "a product of " + std::string(dtype_name(dtype)) + " is added to " +
                                    std::string(dtype_name(context.input(1).dtype)) +
                                    "; it may be of f32, bf16 or f16, and what it is added to is f32");
  }
  const Attributes& attributes = context.attributes();
  const int64_t trans_a = attributes.has("transA") && attributes.flag("transA") ? 1 : 0;
  const int64_t trans_b = attributes.has("transB") && attributes.flag("transB") ? 1 : 0;
  context.set_attribute("alpha", attributes.has("alpha") ? attributes.number("alpha") : 1.0);
  context.set_attribute("beta", 1.0);
  context.set_attribute("transA", trans_a);
  context.set_attribute("transB", trans_b);
  const Shape& a = context.input(0).shape;
  const Shape& b = context.input(2).shape;
  const Shape y{a[trans_a != 0 ? 1 : 0], b[trans_b != 0 ? 0 : 1]};
  if (a[trans_a != 0 ? 0 : 1] != b[trans_b != 0 ? 1 : 0] || context.input(1).shape != y) {
    context.fail(ErrorId::M032, "the product of " + to_string(a) + " and " + to_string(b) + " is not of shape " +
                                    to_string(context.input(1).shape) + ", which it is added to");
  }
  context.set_output(0, DType::f32, y);
  context.set_output(1, DType::f32, Shape{y[1]});
}

void infer_accumulate(InferContext& context) {
  if (context.input_count() == kMostAccumulateInputs) return infer_accumulated_product(context);
  if (context.output_count() > 1) context.fail(ErrorId::M022, "only a product has the sums of b's columns beside it");
  context.require_float(0);
  require_type_of(context, 1, 0);
  context.set_output(0, context.input(0).dtype, context.input(0).shape);
}

// One addition per element, and the product.
OpQuantities cost_accumulate(const CostContext& context) {
  const double elements = static_cast<double>(context.output(0).shape.elements());
  if (context.inputs.size() < kMostAccumulateInputs) return {.flops = elements};
  const Shape& a = context.input(0).shape;
  const int64_t inner = a[context.attributes.flag("transA") ? 0 : 1];
  const bool has_sums = context.outputs.size() > 1 && context.outputs[1].has_value();
  const double sums = has_sums ? static_cast<double>(context.input(2).shape.elements()) : 0.0;
  return {.flops = elements * (2.0 * static_cast<double>(inner) + 1) + sums};
}

// Operands p, g, `state_count` states of each tensor, step, lr_scale, grad_scale?. Results p and the states of each.
void infer_update(InferContext& context, int state_count) {
  const int inputs = 2 + state_count;  // of a tensor
  const int results = 1 + state_count;
  const int tensors = context.output_count() / results;
  const int scalars = context.input_count() - tensors * inputs;
  if (tensors == 0 || context.output_count() % results != 0 || scalars < 2 || scalars > 3) {
    context.fail(ErrorId::M022, "has " + std::to_string(context.input_count()) + " inputs and " +
                                    std::to_string(context.output_count()) + " outputs; it takes " +
                                    std::to_string(inputs) + " inputs and gives " + std::to_string(results) +
                                    " outputs per tensor, and takes 2 or 3 scalars");
  }
  for (int i = 0; i < tensors * inputs + 2; ++i) {
    if (!context.has_input(i)) context.fail(ErrorId::M022, "input " + std::to_string(i) + " is required");
  }
  context.require_float(0);
  for (int t = 0; t < tensors; ++t) {
    context.require_same_dtype(t * inputs, 0);
    for (int i = 1; i < inputs; ++i) require_type_of(context, t * inputs + i, t * inputs);
    for (int i = 0; i < results; ++i)
      context.set_output(t * results + i, context.input(0).dtype, context.input(t * inputs).shape);
  }
  const int first = tensors * inputs;
  require_scalar(context, first, DType::i64);
  require_scalar(context, first + 1, DType::f32);
  if (context.has_input(first + 2)) require_scalar(context, first + 2, DType::f32);
  require_finite(context, "lr");
  require_finite(context, "weight_decay");
}

void infer_sgd(InferContext& context) {
  infer_update(context, 0);
}

void infer_momentum(InferContext& context) {
  require_finite(context, "momentum");
  require_finite(context, "dampening");
  infer_update(context, 1);
}

void infer_adam(InferContext& context) {
  require_number_in(context, "beta1", 0, 1);
  require_number_in(context, "beta2", 0, 1);
  require_finite(context, "epsilon");
  infer_update(context, 2);
}

// Operations per element, with the scaling of the gradient and weight decay: SGD 1 + 2 + 2; momentum SGD + 3 + 2
// (nesterov); Adam 1 + 2 + 1, m 3, v 4, p 5.
template <int flops_per_element, int results>
OpQuantities cost_update(const CostContext& context) {
  double elements = 0;
  for (size_t i = 0; i < context.outputs.size(); i += results)
    elements += static_cast<double>(context.output(static_cast<int>(i)).shape.elements());
  return {.flops = flops_per_element * elements};
}

void infer_transfer(InferContext& context) {
  if (context.input_count() != context.output_count()) {
    context.fail(ErrorId::M022, "has " + std::to_string(context.input_count()) + " inputs and " +
                                    std::to_string(context.output_count()) + " outputs, they must be as many");
  }
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.has_input(i)) context.fail(ErrorId::M022, "input " + std::to_string(i) + " is required");
    context.set_output(i, context.input(i).dtype, context.input(i).shape);
  }
}

OpQuantities cost_transfer(const CostContext&) {
  return {};
}

AttributeSpec number(std::string_view name) {
  return {.name = name, .type = AttributeType::number};
}
AttributeSpec number(std::string_view name, double default_value) {
  return {.name = name, .type = AttributeType::number, .default_value = default_value};
}
AttributeSpec flag(std::string_view name) {
  return {.name = name, .type = AttributeType::integer, .default_value = int64_t{0}};
}

}  // namespace

#define MPC_DEFINE(name)         \
  extern const OpDef name##_def; \
  const OpDef name##_def

/// y[i] = keep[i] ? x[i] / (1 - ratio) : 0, the form for training (ONNX opset 22 with training_mode = true).
/// keep[i] comes from a counter-based generator (compiler/base/random.h) and depends only on the session's seed,
/// the attribute `rng` (the number of this dropout in the model), the step, the micro-batch and i. The gradient is the
/// same operator on dy. 32 FLOPs per element.
MPC_DEFINE(Dropout) = {
    .op = OpKind::Dropout,
    .attributes = {number("ratio", 0.5), {.name = "rng", .type = AttributeType::integer}},
    .infer = infer_dropout,
    .gradient = gradient_dropout,
    .cost = cost_dropout,
};

/// GradAccumulate(g, acc) -> acc': g in the first micro-batch of a step, acc + g in the others, added in the dtype
/// (f16 and bf16 in f32, rounded once).
/// GradAccumulate(a, acc, b) -> acc', sums: g is alpha op(a) op(b), a Gemm's product in f32, and sums are those of
/// op(b)'s columns, of this micro-batch alone (passes/fuse_accumulations).
/// One FLOP per element, and those of the product. Not an ONNX operator.
MPC_DEFINE(GradAccumulate) = {
    .op = OpKind::GradAccumulate,
    .min_inputs = 2,
    .max_inputs = kMostAccumulateInputs,
    .max_outputs = 2,
    .attributes = {{.name = "alpha", .type = AttributeType::number, .is_optional = true},
                   {.name = "beta", .type = AttributeType::number, .is_optional = true},
                   {.name = "transA", .type = AttributeType::integer, .is_optional = true},
                   {.name = "transB", .type = AttributeType::integer, .is_optional = true}},
    .infer = infer_accumulate,
    .differentiable = Differentiable::no,
    .cost = cost_accumulate,
};

/// SgdUpdate((p, g)..., step, lr_scale, grad_scale?) -> p'...:
///   g = g * grad_scale + weight_decay * p;  p' = p - lr * lr_scale * g. 5 FLOPs per element.
MPC_DEFINE(SgdUpdate) = {
    .op = OpKind::SgdUpdate,
    .min_inputs = 4,
    .max_inputs = OpDef::kVariadic,
    .max_outputs = OpDef::kVariadic,
    .attributes = {number("lr"), number("weight_decay", 0)},
    .infer = infer_sgd,
    .differentiable = Differentiable::no,
    .cost = cost_update<5, 1>,
};

/// MomentumUpdate((p, g, m)..., step, lr_scale, grad_scale?) -> (p', m')...:
///   g = g * grad_scale + weight_decay * p;  m' = step == 1 ? g : momentum * m + (1 - dampening) * g;
///   p' = p - lr * lr_scale * (nesterov ? g + momentum * m' : m'). 10 FLOPs per element.
MPC_DEFINE(MomentumUpdate) = {
    .op = OpKind::MomentumUpdate,
    .min_inputs = 5,
    .max_inputs = OpDef::kVariadic,
    .min_outputs = 2,
    .max_outputs = OpDef::kVariadic,
    .attributes = {number("lr"), number("momentum"), number("dampening", 0), flag("nesterov"),
                   number("weight_decay", 0)},
    .infer = infer_momentum,
    .differentiable = Differentiable::no,
    .cost = cost_update<10, 2>,
};

/// AdamUpdate((p, g, m, v)..., step, lr_scale, grad_scale?) -> (p', m', v')... (Adam; AdamW with decoupled = 1):
///   lr_t = lr * lr_scale;  g = g * grad_scale + (decoupled ? 0 : weight_decay * p);
///   p = p * (decoupled ? 1 - lr_t * weight_decay : 1);
///   m' = m + (g - m) * (1 - beta1);  v' = v * beta2 + (1 - beta2) * g^2;
///   p' = p - lr_t / (1 - beta1^step) * (m' / (sqrt(v') / sqrt(1 - beta2^step) + epsilon)). 16 FLOPs per element.
MPC_DEFINE(AdamUpdate) = {
    .op = OpKind::AdamUpdate,
    .min_inputs = 6,
    .max_inputs = OpDef::kVariadic,
    .min_outputs = 3,
    .max_outputs = OpDef::kVariadic,
    .attributes = {number("lr"), number("beta1", 0.9), number("beta2", 0.999), number("epsilon", 1e-8),
                   number("weight_decay", 0), flag("decoupled")},
    .infer = infer_adam,
    .differentiable = Differentiable::no,
    .cost = cost_update<16, 3>,
};

/// Copies n values to the device of the node: output i is input i. No arithmetic.
MPC_DEFINE(Transfer) = {
    .op = OpKind::Transfer,
    .min_inputs = 1,
    .max_inputs = OpDef::kVariadic,
    .min_outputs = 1,
    .max_outputs = OpDef::kVariadic,
    .infer = infer_transfer,
    .differentiable = Differentiable::no,
    .cost = cost_transfer,
};

}  // namespace mpc::ops
