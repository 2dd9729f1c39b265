// Elementwise operators with two or three operands and numpy broadcasting (ONNX opset 27): y[i] = f(a[i], b[i]).
//
// The formulas stand as code in executor/functors/binary.h. There is no accumulation. f16 and bf16 are computed in f32;
// integers wrap; an integer division by zero is an error (M033). One FLOP per element of the output is counted.
// The gradient with respect to a broadcast operand is summed over the broadcast dimensions.

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {
namespace {

void require_number(InferContext& context, int i) {
  if (context.input(i).dtype == DType::boolean) {
    context.fail(ErrorId::M030, "input " + std::to_string(i) + " is bool, a number is needed");
  }
}

void require_bool(InferContext& context, int i) {
  const DType dtype = context.input(i).dtype;
  if (dtype == DType::boolean) return;
  context.fail(ErrorId::M030,
               "input " + std::to_string(i) + " is " + std::string(dtype_name(dtype)) + ", bool is needed");
}

void infer_arithmetic(InferContext& context) {
  require_number(context, 0);
  context.require_same_dtype(0, 1);
  context.set_output(0, context.input(0).dtype, context.broadcast_inputs(0, 1));
}

void infer_comparison(InferContext& context) {
  require_number(context, 0);
  context.require_same_dtype(0, 1);
  context.set_output(0, DType::boolean, context.broadcast_inputs(0, 1));
}

void infer_equal(InferContext& context) {
  context.require_same_dtype(0, 1);
  context.set_output(0, DType::boolean, context.broadcast_inputs(0, 1));
}

void infer_logical(InferContext& context) {
  require_bool(context, 0);
  require_bool(context, 1);
  context.set_output(0, DType::boolean, context.broadcast_inputs(0, 1));
}

void infer_mod(InferContext& context) {
  const int64_t fmod = context.attributes().integer("fmod");
  if (fmod != 0 && fmod != 1) context.fail(ErrorId::M031, "fmod is " + std::to_string(fmod), "use 0 or 1");
  if (fmod == 0 && is_float(context.input(0).dtype)) context.fail(ErrorId::M031, "fmod is 0, it must be 1 for floats");
  infer_arithmetic(context);
}

void infer_pow(InferContext& context) {
  const DType base = context.input(0).dtype;
  if (!is_float(base) && base != DType::i32 && base != DType::i64) {
    context.fail(ErrorId::M030, "input 0 is " + std::string(dtype_name(base)) + ", a float type, i32 or i64 is needed");
  }
  require_number(context, 1);
  context.set_output(0, base, context.broadcast_inputs(0, 1));
}

void infer_prelu(InferContext& context) {
  require_number(context, 0);
  context.require_same_dtype(0, 1);
  const Shape& x = context.input(0).shape;
  if (context.broadcast_inputs(0, 1) != x) {
    context.fail(ErrorId::M032, "slope " + to_string(context.input(1).shape) +
                                    " does not broadcast to the shape of x, " + to_string(x));
  }
  context.set_output(0, context.input(0).dtype, x);
}

void infer_where(InferContext& context) {
  require_bool(context, 0);
  context.require_same_dtype(1, 2);
  const auto shape = broadcast(context.input(0).shape, context.broadcast_inputs(1, 2));
  if (!shape) {
    context.fail(ErrorId::M032, "the condition " + to_string(context.input(0).shape) + " does not broadcast with " +
                                    to_string(context.broadcast_inputs(1, 2)));
  }
  context.set_output(0, context.input(1).dtype, *shape);
}

/// Sets the gradient of operand i to `gradient` summed over its broadcast dimensions.
void set_reduced(GradientContext& context, int i, ValueId gradient) {
  context.set_input_grad(i, context.reduce_to(gradient, context.shape(context.input(i))));
}

/// condition ? gradient : 0.
ValueId keep_where(GradientContext& context, ValueId condition, ValueId gradient) {
  return context.emit(OpKind::Where, {condition, gradient, context.scalar(0, context.dtype(gradient))});
}

/// condition ? 0 : gradient.
ValueId drop_where(GradientContext& context, ValueId condition, ValueId gradient) {
  return context.emit(OpKind::Where, {condition, context.scalar(0, context.dtype(gradient)), gradient});
}

void gradient_add(GradientContext& context) {
  const ValueId dy = context.output_grad(0);
  if (context.needs(0)) set_reduced(context, 0, dy);
  if (context.needs(1)) set_reduced(context, 1, dy);
}

void gradient_sub(GradientContext& context) {
  const ValueId dy = context.output_grad(0);
  if (context.needs(0)) set_reduced(context, 0, dy);
  // Summed first: the negation is then of the smaller tensor.
  if (context.needs(1)) context.set_input_grad(1, context.neg(context.reduce_to(dy, context.shape(context.input(1)))));
}

void gradient_mul(GradientContext& context) {
  const ValueId dy = context.output_grad(0);
  if (context.needs(0)) set_reduced(context, 0, context.mul(dy, context.input(1)));
  if (context.needs(1)) set_reduced(context, 1, context.mul(dy, context.input(0)));
}

// y = a / b: da = dy / b, db = -dy * y / b.
void gradient_div(GradientContext& context) {
  const ValueId dy = context.output_grad(0);
  const ValueId b = context.input(1);
  if (!context.needs(0) && !context.needs(1)) return;
  const ValueId da = context.div(dy, b);
  if (context.needs(0)) set_reduced(context, 0, da);
  if (context.needs(1)) {
    const ValueId sum = context.reduce_to(context.mul(da, context.output(0)), context.shape(b));
    context.set_input_grad(1, context.neg(sum));
  }
}

// y = a - trunc(a / b) * b: da = dy, db = -dy * trunc(a / b), and trunc(a / b) = (a - y) / b.
void gradient_mod(GradientContext& context) {
  const ValueId dy = context.output_grad(0);
  if (context.needs(0)) set_reduced(context, 0, dy);
  if (context.needs(1)) {
    const ValueId quotient = context.div(context.sub(context.input(0), context.output(0)), context.input(1));
    const ValueId sum = context.reduce_to(context.mul(dy, quotient), context.shape(context.input(1)));
    context.set_input_grad(1, context.neg(sum));
  }
}

// The first operand takes the gradient where both are equal.
template <OpKind comparison>
void gradient_extremum(GradientContext& context) {
  if (!context.needs(0) && !context.needs(1)) return;
  const ValueId dy = context.output_grad(0);
  const ValueId is_first = context.emit(comparison, {context.input(0), context.input(1)});
  if (context.needs(0)) set_reduced(context, 0, keep_where(context, is_first, dy));
  if (context.needs(1)) set_reduced(context, 1, drop_where(context, is_first, dy));
}

// y = x^e: dx = dy * e * x^(e - 1), which is 0 where e is 0 (and not 0 * infinity at x = 0); de = dy * y * log(x),
// taken as 0 at x = 0.
void gradient_pow(GradientContext& context) {
  const ValueId dy = context.output_grad(0);
  const ValueId x = context.input(0);
  const DType dtype = context.dtype(x);
  ValueId e = context.input(1);
  const DType exponent_dtype = context.dtype(e);
  if (context.needs(0)) {
    if (exponent_dtype != dtype) e = context.emit(OpKind::Cast, {e}, {{"to", std::string(dtype_name(dtype))}});
    const ValueId power = context.emit(OpKind::Pow, {x, context.sub(e, context.scalar(1, dtype))});
    const ValueId is_constant = context.emit(OpKind::Equal, {e, context.scalar(0, dtype)});
    set_reduced(context, 0, context.mul(dy, drop_where(context, is_constant, context.mul(e, power))));
  }
  if (context.needs(1)) {
    const ValueId is_zero = context.emit(OpKind::Equal, {x, context.scalar(0, dtype)});
    const ValueId slope = drop_where(context, is_zero, context.mul(context.output(0), context.emit(OpKind::Log, {x})));
    ValueId de = context.reduce_to(context.mul(dy, slope), context.shape(context.input(1)));
    if (exponent_dtype != dtype) {
      de = context.emit(OpKind::Cast, {de}, {{"to", std::string(dtype_name(exponent_dtype))}});
    }
    context.set_input_grad(1, de);
  }
}

void gradient_prelu(GradientContext& context) {
  if (!context.needs(0) && !context.needs(1)) return;
  const ValueId dy = context.output_grad(0);
  const ValueId x = context.input(0);
  const ValueId is_negative = context.emit(OpKind::Less, {x, context.scalar(0, context.dtype(x))});
  if (context.needs(0)) {
    context.set_input_grad(0, context.emit(OpKind::Where, {is_negative, context.mul(dy, context.input(1)), dy}));
  }
  if (context.needs(1)) set_reduced(context, 1, keep_where(context, is_negative, context.mul(dy, x)));
}

void gradient_where(GradientContext& context) {
  const ValueId dy = context.output_grad(0);
  if (context.needs(1)) set_reduced(context, 1, keep_where(context, context.input(0), dy));
  if (context.needs(2)) set_reduced(context, 2, drop_where(context, context.input(0), dy));
}

OpDef arithmetic(OpKind op, void (*infer)(InferContext&), void (*gradient)(GradientContext&)) {
  return {.op = op, .min_inputs = 2, .max_inputs = 2, .infer = infer, .gradient = gradient};
}

OpDef predicate(OpKind op, void (*infer)(InferContext&)) {
  return {.op = op, .min_inputs = 2, .max_inputs = 2, .infer = infer, .differentiable = Differentiable::constant};
}

}  // namespace

#define MPC_DEFINE(name)         \
  extern const OpDef name##_def; \
  const OpDef name##_def

MPC_DEFINE(Add) = arithmetic(OpKind::Add, infer_arithmetic, gradient_add);
MPC_DEFINE(Sub) = arithmetic(OpKind::Sub, infer_arithmetic, gradient_sub);
MPC_DEFINE(Mul) = arithmetic(OpKind::Mul, infer_arithmetic, gradient_mul);
/// Integers are divided towards zero.
MPC_DEFINE(Div) = arithmetic(OpKind::Div, infer_arithmetic, gradient_div);
/// The n-ary forms of ONNX are chains of these. NaN in either operand gives NaN.
MPC_DEFINE(Max) = arithmetic(OpKind::Max, infer_arithmetic, gradient_extremum<OpKind::GreaterOrEqual>);
MPC_DEFINE(Min) = arithmetic(OpKind::Min, infer_arithmetic, gradient_extremum<OpKind::LessOrEqual>);
/// x^e in the dtype of x; e may have another one. An integer to a negative integer power is truncated towards zero.
MPC_DEFINE(Pow) = arithmetic(OpKind::Pow, infer_pow, gradient_pow);
/// x < 0 ? slope * x : x.
MPC_DEFINE(PRelu) = arithmetic(OpKind::PRelu, infer_prelu, gradient_prelu);

/// fmod = 0: the sign of the divisor (integers only). fmod = 1: the sign of the dividend.
MPC_DEFINE(Mod) = {
    .op = OpKind::Mod,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{.name = "fmod", .type = AttributeType::integer, .default_value = int64_t{0}}},
    .infer = infer_mod,
    .gradient = gradient_mod,
};

MPC_DEFINE(And) = predicate(OpKind::And, infer_logical);
MPC_DEFINE(Or) = predicate(OpKind::Or, infer_logical);
MPC_DEFINE(Xor) = predicate(OpKind::Xor, infer_logical);
MPC_DEFINE(Equal) = predicate(OpKind::Equal, infer_equal);
MPC_DEFINE(Greater) = predicate(OpKind::Greater, infer_comparison);
MPC_DEFINE(GreaterOrEqual) = predicate(OpKind::GreaterOrEqual, infer_comparison);
MPC_DEFINE(Less) = predicate(OpKind::Less, infer_comparison);
MPC_DEFINE(LessOrEqual) = predicate(OpKind::LessOrEqual, infer_comparison);

/// condition ? x : y.
MPC_DEFINE(Where) = {
    .op = OpKind::Where,
    .min_inputs = 3,
    .max_inputs = 3,
    .infer = infer_where,
    .gradient = gradient_where,
    .no_gradient_inputs = {0},
};

}  // namespace mpc::ops
