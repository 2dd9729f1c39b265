// Elementwise operators with one operand: y[i] = f(x[i]).
//
// The formulas are ONNX's (opset 27); they stand as code in executor/functors/unary.h. There is no accumulation. f16
// and bf16 are computed in f32. One FLOP per element is counted for every function: these operators are bound by
// bandwidth.
//
// The gradient is one UnaryGrad node, dx = dy * f'(x). It reads x, or y where that is cheaper or keeps less alive: the
// table of definitions says which.

#include <limits>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void infer_same(InferContext& context) {
  context.set_output(0, context.input(0).dtype, context.input(0).shape);
}

void infer_float(InferContext& context) {
  context.require_float(0);
  infer_same(context);
}

void infer_numeric(InferContext& context) {
  if (context.input(0).dtype == DType::boolean) context.fail(ErrorId::M030, "input 0 is bool, a number is needed");
  infer_same(context);
}

void infer_signed(InferContext& context) {
  const DType dtype = context.input(0).dtype;
  if (!is_float(dtype) && !is_signed_integer(dtype)) {
    context.fail(ErrorId::M030, "input 0 is " + std::string(dtype_name(dtype)) + ", a signed type is needed");
  }
  infer_same(context);
}

void infer_celu(InferContext& context) {
  if (context.attributes().number("alpha") == 0) context.fail(ErrorId::M031, "alpha is 0, it divides the operand");
  infer_float(context);
}

void infer_gelu(InferContext& context) {
  const std::string& approximate = context.attributes().text("approximate");
  if (approximate != "none" && approximate != "tanh") {
    context.fail(ErrorId::M031, "approximate is '" + escaped(approximate, 100) + "'", "use none or tanh");
  }
  infer_float(context);
}

void infer_is(InferContext& context) {
  context.require_float(0);
  context.set_output(0, DType::boolean, context.input(0).shape);
}

void infer_not(InferContext& context) {
  if (context.input(0).dtype != DType::boolean) {
    context.fail(ErrorId::M030, "input 0 is " + std::string(dtype_name(context.input(0).dtype)) + ", bool is needed");
  }
  infer_same(context);
}

void emit_unary_grad(GradientContext& context, OpKind function, ValueId x, ValueId y) {
  if (!context.needs(0)) return;
  Attributes attributes = context.attributes();
  attributes.set("function", std::string(op_name(function)));
  context.set_input_grad(0, context.emit(OpKind::UnaryGrad, {context.output_grad(0), x, y}, std::move(attributes)));
}

template <OpKind function>
void gradient_from_x(GradientContext& context) {
  emit_unary_grad(context, function, context.input(0), ValueId{});
}

template <OpKind function>
void gradient_from_y(GradientContext& context) {
  emit_unary_grad(context, function, ValueId{}, context.output(0));
}

void gradient_neg(GradientContext& context) {
  if (context.needs(0)) context.set_input_grad(0, context.neg(context.output_grad(0)));
}

using Infer = void (*)(InferContext&);

template <OpKind function>
OpDef reads_x(Infer infer, std::vector<AttributeSpec> attributes = {}) {
  return {.op = function, .attributes = std::move(attributes), .infer = infer, .gradient = gradient_from_x<function>};
}

template <OpKind function>
OpDef reads_y(Infer infer, std::vector<AttributeSpec> attributes = {}) {
  return {.op = function, .attributes = std::move(attributes), .infer = infer, .gradient = gradient_from_y<function>};
}

// Piecewise constant: gradients stop here.
OpDef is_flat(OpKind op, Infer infer, std::vector<AttributeSpec> attributes = {}) {
  return {.op = op, .attributes = std::move(attributes), .infer = infer, .differentiable = Differentiable::constant};
}

// ONNX states defaults as f32: the double of the same value, so that a stated default equals an absent one.
AttributeSpec number(std::string_view name, float default_value) {
  return {.name = name, .type = AttributeType::number, .default_value = static_cast<double>(default_value)};
}

}  // namespace

#define MPC_DEFINE(name)         \
  extern const OpDef name##_def; \
  const OpDef name##_def
#define MPC_READS_X(name, ...) MPC_DEFINE(name) = reads_x<OpKind::name>(__VA_ARGS__)
#define MPC_READS_Y(name, ...) MPC_DEFINE(name) = reads_y<OpKind::name>(__VA_ARGS__)

/// |x|. The derivative at 0 is 0.
MPC_READS_X(Abs, infer_numeric);
MPC_READS_X(Acos, infer_float);
MPC_READS_X(Acosh, infer_float);
MPC_READS_X(Asin, infer_float);
MPC_READS_X(Asinh, infer_float);
MPC_READS_X(Atan, infer_float);
MPC_READS_X(Atanh, infer_float);
MPC_DEFINE(Ceil) = is_flat(OpKind::Ceil, infer_float);
/// max(0, x) + min(0, alpha * (exp(x / alpha) - 1)).
MPC_READS_X(Celu, infer_celu, {number("alpha", 1.0F)});
MPC_READS_X(Cos, infer_float);
MPC_READS_X(Cosh, infer_float);
/// x < 0 ? alpha * (exp(x) - 1) : x.
MPC_READS_X(Elu, infer_float, {number("alpha", 1.0F)});
/// Integers are computed in f64 and truncated.
MPC_READS_X(Erf, infer_numeric);
MPC_READS_Y(Exp, infer_float);
MPC_DEFINE(Floor) = is_flat(OpKind::Floor, infer_float);
/// none: x / 2 * (1 + erf(x / sqrt(2))). tanh: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))).
MPC_READS_X(Gelu, infer_gelu,
            {{.name = "approximate", .type = AttributeType::text, .default_value = std::string("none")}});
/// max(0, min(1, alpha * x + beta)).
MPC_READS_Y(HardSigmoid, infer_float, {number("alpha", 0.2F), number("beta", 0.5F)});
/// x * max(0, min(1, x / 6 + 1 / 2)).
MPC_READS_X(HardSwish, infer_float);
MPC_DEFINE(IsInf) = is_flat(OpKind::IsInf, infer_is,
                            {{.name = "detect_negative", .type = AttributeType::integer, .default_value = int64_t{1}},
                             {.name = "detect_positive", .type = AttributeType::integer, .default_value = int64_t{1}}});
MPC_DEFINE(IsNaN) = is_flat(OpKind::IsNaN, infer_is);
/// x < 0 ? alpha * x : x.
MPC_READS_X(LeakyRelu, infer_float, {number("alpha", 0.01F)});
MPC_READS_X(Log, infer_float);
/// x * tanh(log(1 + exp(x))).
MPC_READS_X(Mish, infer_float);
MPC_DEFINE(Neg) = {.op = OpKind::Neg, .infer = infer_signed, .gradient = gradient_neg};
MPC_DEFINE(Not) = is_flat(OpKind::Not, infer_not);
MPC_READS_Y(Reciprocal, infer_float);
/// max(0, x). The derivative at 0 is 0.
MPC_READS_Y(Relu, infer_signed);
/// Half to even.
MPC_DEFINE(Round) = is_flat(OpKind::Round, infer_float);
/// gamma * (x > 0 ? x : alpha * (exp(x) - 1)).
MPC_READS_X(Selu, infer_float,
            {number("alpha", 1.67326319217681884765625F), number("gamma", 1.05070102214813232421875F)});
/// x < -lambd: x + bias; x > lambd: x - bias; else 0. Integers are computed in f64 and truncated.
MPC_READS_X(Shrink, infer_numeric, {number("bias", 0.0F), number("lambd", 0.5F)});
MPC_READS_Y(Sigmoid, infer_float);
MPC_DEFINE(Sign) = is_flat(OpKind::Sign, infer_numeric);
MPC_READS_X(Sin, infer_float);
MPC_READS_X(Sinh, infer_float);
/// log(1 + exp(x)); the derivative is 1 - exp(-y).
MPC_READS_Y(Softplus, infer_float);
/// x / (1 + |x|).
MPC_READS_X(Softsign, infer_float);
MPC_READS_Y(Sqrt, infer_float);
MPC_READS_Y(Tan, infer_float);
MPC_READS_Y(Tanh, infer_float);
/// x > alpha ? x : 0.
MPC_READS_X(ThresholdedRelu, infer_float, {number("alpha", 1.0F)});

/// min(max, max(min, x)): a `min` above `max` gives `max`. The derivative is 1 from min to max, both included.
MPC_DEFINE(Clip) = {
    .op = OpKind::Clip,
    .attributes = {{.name = "min", .type = AttributeType::number, .default_value = -kInfinity},
                   {.name = "max", .type = AttributeType::number, .default_value = kInfinity}},
    .static_operands = {{1, "min"}, {2, "max"}},
    .infer = infer_numeric,
    .gradient = gradient_from_x<OpKind::Clip>,
};

namespace {

// Does the gradient of `function` read y (else x)?
bool reads_result(OpKind function) {
  switch (function) {
    case OpKind::Exp:
    case OpKind::HardSigmoid:
    case OpKind::Reciprocal:
    case OpKind::Relu:
    case OpKind::Sigmoid:
    case OpKind::Softplus:
    case OpKind::Sqrt:
    case OpKind::Tan:
    case OpKind::Tanh:
      return true;
    default:
      return false;
  }
}

bool has_unary_grad(OpKind op) {
  const bool is_unary =
      static_cast<int>(op) <= static_cast<int>(OpKind::Clip) && op != OpKind::UnaryGrad && op != OpKind::Cast;
  return is_unary && op != OpKind::Neg && op_def(op).differentiable == Differentiable::yes;
}

OpKind function_of(InferContext& context) {
  const std::string& name = context.attributes().text("function");
  const auto op = find_op(name);
  if (!op || !has_unary_grad(*op)) {
    context.fail(ErrorId::M031, "function '" + escaped(name, 100) + "' is not an operator with a UnaryGrad");
  }
  return *op;
}

// The attributes of a UnaryGrad are those of its function: exactly those, defaults filled in.
void check_function_attributes(InferContext& context, OpKind function) {
  const std::vector<AttributeSpec>& specs = op_def(function).attributes;
  for (const auto& [name, value] : context.attributes().items()) {
    bool is_known = name == "function";
    for (const AttributeSpec& spec : specs) is_known = is_known || spec.name == name;
    if (!is_known)
      context.fail(ErrorId::M031, "attribute '" + name + "' is not one of " + std::string(op_name(function)));
  }
  for (const AttributeSpec& spec : specs) {
    if (!context.attributes().has(spec.name)) context.set_attribute(spec.name, *spec.default_value);
  }
}

void infer_unary_grad(InferContext& context) {
  const OpKind function = function_of(context);
  check_function_attributes(context, function);
  context.require_float(0);
  const int needed = reads_result(function) ? 2 : 1;
  if (!context.has_input(needed)) {
    context.fail(ErrorId::M022,
                 "input " + std::to_string(needed) + " is required for " + std::string(op_name(function)));
  }
  for (int i = 1; i < context.input_count(); ++i) {
    if (!context.has_input(i)) continue;
    context.require_same_dtype(0, i);
    if (context.input(i).shape != context.input(0).shape) {
      context.fail(ErrorId::M032, "input " + std::to_string(i) + " has shape " + to_string(context.input(i).shape) +
                                      " and input 0 has shape " + to_string(context.input(0).shape));
    }
  }
  if (function == OpKind::Celu) return infer_celu(context);
  if (function == OpKind::Gelu) return infer_gelu(context);
  infer_float(context);
}

// The derivative and its product with dy.
OpQuantities cost_unary_grad(const CostContext& context) {
  return {.flops = 2.0 * static_cast<double>(context.output(0).shape.elements())};
}

AttributeSpec optional(std::string_view name, AttributeType type) {
  return {.name = name, .type = type, .is_optional = true};
}

}  // namespace

/// dx = dy * f'(x), of the function named by `function`, with that function's attributes. Operands: dy, x, y; of x and
/// y the function's table row says which is read, the other is absent. 2 FLOPs per element. Not an ONNX operator.
MPC_DEFINE(UnaryGrad) = {
    .op = OpKind::UnaryGrad,
    .min_inputs = 1,
    .max_inputs = 3,
    .attributes = {{.name = "function", .type = AttributeType::text},
                   optional("alpha", AttributeType::number),
                   optional("approximate", AttributeType::text),
                   optional("beta", AttributeType::number),
                   optional("bias", AttributeType::number),
                   optional("gamma", AttributeType::number),
                   optional("lambd", AttributeType::number),
                   optional("max", AttributeType::number),
                   optional("min", AttributeType::number)},
    .infer = infer_unary_grad,
    .differentiable = Differentiable::no,
    .cost = cost_unary_grad,
};

}  // namespace mpc::ops
