// Reductions over axes, ArgMax, ArgMin and CumSum (ONNX opset 27).
//
// The operand `axes` (CumSum: `axis`) is static. Canonical `axes` are positive and sorted; all axes are listed unless
// noop_with_empty_axes is set, which then means a reduction over no axis (every element is a group of its own).
// Elements are taken in row-major order and accumulated in f64 (integers exactly, modulo 2^64). Over an empty group
// Sum, L1, L2 and SumSquare are 0, Prod is 1, Max and Min are the least and the greatest value of the dtype, LogSum and
// LogSumExp are -infinity, and Mean is NaN (an error for integers).
// FLOPs: per element of the operand 1 (Sum, Mean, Prod, Max, Min), 2 (L1, L2, SumSquare, LogSum), 3 (LogSumExp:
// subtract, exp, add).

#include <algorithm>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"
#include "compiler/ops/widened.h"

namespace mpc::ops {
namespace {

std::vector<int64_t> canonical_axes(InferContext& context, int rank) {
  std::vector<int64_t> axes;
  for (const int64_t axis : context.attributes().integers("axes")) {
    const auto normalized = normalize_axis(axis, rank);
    if (!normalized) {
      context.fail(ErrorId::M031, "axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(rank));
    }
    axes.push_back(*normalized);
  }
  std::ranges::sort(axes);
  if (std::ranges::adjacent_find(axes) != axes.end()) context.fail(ErrorId::M031, "axes names an axis twice");
  if (axes.empty() && !context.attributes().flag("noop_with_empty_axes")) {
    for (int axis = 0; axis < rank; ++axis) axes.push_back(axis);
  }
  return axes;
}

std::vector<int64_t> reduced_dims(const Shape& shape, const std::vector<int64_t>& axes, bool keepdims) {
  std::vector<int64_t> dims;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const bool is_reduced = std::ranges::binary_search(axes, axis);
    if (!is_reduced) dims.push_back(shape[axis]);
    if (is_reduced && keepdims) dims.push_back(1);
  }
  return dims;
}

void infer_axes(InferContext& context) {
  const Shape shape = context.input(0).shape;
  const std::vector<int64_t> axes = canonical_axes(context, shape.rank());
  context.set_attribute("axes", axes);
  context.set_output(0, context.input(0).dtype, reduced_dims(shape, axes, context.attributes().flag("keepdims")));
}

void infer_reduction(InferContext& context) {
  if (context.input(0).dtype == DType::boolean) context.fail(ErrorId::M030, "input 0 is bool, a number is needed");
  infer_axes(context);
}

void infer_sum(InferContext& context) {
  infer_reduction(context);
  const TensorType sum = *context.outputs()[0];
  context.set_output(0, widened(context, sum.dtype), sum.shape);
}

void infer_arg(InferContext& context) {
  if (context.input(0).dtype == DType::boolean) context.fail(ErrorId::M030, "input 0 is bool, a number is needed");
  const Shape& shape = context.input(0).shape;
  const int axis = context.axis("axis", shape.rank());
  if (shape[axis] == 0) context.fail(ErrorId::M032, "there is no element along axis " + std::to_string(axis));
  context.set_attribute("axis", int64_t{axis});
  context.set_output(0, DType::i64, reduced_dims(shape, {axis}, context.attributes().flag("keepdims")));
}

void infer_cumsum(InferContext& context) {
  if (context.input(0).dtype == DType::boolean) context.fail(ErrorId::M030, "input 0 is bool, a number is needed");
  context.set_attribute("axis", int64_t{context.axis("axis", context.input(0).shape.rank())});
  context.set_output(0, context.input(0).dtype, context.input(0).shape);
}

/// A tensor of the output's shape with the reduced dimensions put back as 1, so that it broadcasts with the operand.
ValueId with_kept_dims(GradientContext& context, ValueId value) {
  const Shape& shape = context.shape(context.input(0));
  return context.reshape(value, Shape(reduced_dims(shape, context.attributes().integers("axes"), true)));
}

ValueId kept_dy(GradientContext& context) {
  return with_kept_dims(context, context.output_grad(0));
}
ValueId kept_y(GradientContext& context) {
  return with_kept_dims(context, context.output(0));
}

ValueId expand_to_input(GradientContext& context, ValueId value) {
  return context.expand(value, context.shape(context.input(0)));
}

ValueId reduce_again(GradientContext& context, OpKind op, ValueId value) {
  return context.emit(op, {value},
                      {{"axes", context.attributes().integers("axes")},
                       {"keepdims", int64_t{1}},
                       {"noop_with_empty_axes", context.attributes().integer("noop_with_empty_axes")}});
}

void gradient_sum(GradientContext& context) {
  if (!context.needs(0)) return;
  const ValueId dy = narrowed(context, context.output_grad(0));
  context.set_input_grad(0, expand_to_input(context, with_kept_dims(context, dy)));
}

void gradient_mean(GradientContext& context) {
  if (!context.needs(0)) return;
  int64_t count = 1;
  for (const int64_t axis : context.attributes().integers("axes")) {
    count *= context.shape(context.input(0))[static_cast<int>(axis)];
  }
  // An empty group has no element to give a gradient to: any factor will do.
  const double factor = 1.0 / static_cast<double>(std::max<int64_t>(count, 1));
  const ValueId dy = kept_dy(context);
  const ValueId scaled = context.mul(dy, context.scalar(factor, context.dtype(dy)));
  context.set_input_grad(0, expand_to_input(context, scaled));
}

// The gradient is divided evenly among the elements that equal the extremum.
void gradient_extremum(GradientContext& context) {
  if (!context.needs(0)) return;
  const ValueId x = context.input(0);
  const std::string dtype(dtype_name(context.dtype(x)));
  const ValueId is_extremum = context.emit(OpKind::Equal, {x, kept_y(context)});
  const ValueId ones = context.emit(OpKind::Cast, {is_extremum}, {{"to", dtype}});
  const ValueId share = context.div(kept_dy(context), reduce_again(context, OpKind::ReduceSum, ones));
  context.set_input_grad(0, context.mul(ones, share));
}

// The product of the others: product / x, except where x is 0: then the product of all but it, which is 0 unless it is
// the only zero. With zeros replaced by 1 and `zeros` of them in the group: p / x for zeros = 0, p at the zero for 1.
void gradient_prod(GradientContext& context) {
  if (!context.needs(0)) return;
  const ValueId x = context.input(0);
  const DType dtype = context.dtype(x);
  const ValueId zero = context.scalar(0, dtype);
  const ValueId one = context.scalar(1, dtype);
  const ValueId is_zero = context.emit(OpKind::Equal, {x, zero});
  const ValueId zeros = reduce_again(context, OpKind::ReduceSum,
                                     context.emit(OpKind::Cast, {is_zero}, {{"to", std::string(dtype_name(dtype))}}));
  const ValueId nonzero = context.emit(OpKind::Where, {is_zero, one, x});
  const ValueId product = reduce_again(context, OpKind::ReduceProd, nonzero);
  const ValueId product_if_none =
      context.emit(OpKind::Where, {context.emit(OpKind::Equal, {zeros, zero}), product, zero});
  const ValueId product_if_one =
      context.emit(OpKind::Where, {context.emit(OpKind::Equal, {zeros, one}), product, zero});
  const ValueId others = context.emit(OpKind::Where, {is_zero, product_if_one, context.div(product_if_none, nonzero)});
  context.set_input_grad(0, context.mul(kept_dy(context), others));
}

void gradient_l1(GradientContext& context) {
  if (!context.needs(0)) return;
  context.set_input_grad(0, context.mul(kept_dy(context), context.emit(OpKind::Sign, {context.input(0)})));
}

// dy * x / y; 0 where the norm is 0.
void gradient_l2(GradientContext& context) {
  if (!context.needs(0)) return;
  const DType dtype = context.dtype(context.input(0));
  const ValueId y = kept_y(context);
  const ValueId is_zero = context.emit(OpKind::Equal, {y, context.scalar(0, dtype)});
  const ValueId divisor = context.emit(OpKind::Where, {is_zero, context.scalar(1, dtype), y});
  context.set_input_grad(0, context.mul(context.input(0), context.div(kept_dy(context), divisor)));
}

// d log(sum) = dy / sum, and sum = e^y.
void gradient_log_sum(GradientContext& context) {
  if (!context.needs(0)) return;
  const ValueId sum = context.emit(OpKind::Exp, {kept_y(context)});
  context.set_input_grad(0, expand_to_input(context, context.div(kept_dy(context), sum)));
}

void gradient_log_sum_exp(GradientContext& context) {
  if (!context.needs(0)) return;
  const ValueId share = context.emit(OpKind::Exp, {context.sub(context.input(0), kept_y(context))});
  context.set_input_grad(0, context.mul(kept_dy(context), share));
}

void gradient_sum_square(GradientContext& context) {
  if (!context.needs(0)) return;
  const ValueId dy = kept_dy(context);
  const ValueId doubled = context.mul(dy, context.scalar(2, context.dtype(dy)));
  context.set_input_grad(0, context.mul(context.input(0), doubled));
}

// Element i is in the sums at and after i, so its gradient is the sum in the other direction.
void gradient_cumsum(GradientContext& context) {
  if (!context.needs(0)) return;
  Attributes attributes = context.attributes();
  attributes.set("reverse", int64_t{attributes.flag("reverse") ? 0 : 1});
  context.set_input_grad(0, context.emit(OpKind::CumSum, {context.output_grad(0)}, std::move(attributes)));
}

template <int flops_per_element>
OpQuantities cost_per_input(const CostContext& context) {
  return {.flops = flops_per_element * static_cast<double>(context.input(0).shape.elements())};
}

AttributeSpec integer(std::string_view name, int64_t default_value) {
  return {.name = name, .type = AttributeType::integer, .default_value = default_value};
}

using Gradient = void (*)(GradientContext&);
using Cost = OpQuantities (*)(const CostContext&);

OpDef reduction(OpKind op, Gradient gradient, Cost cost, void (*infer)(InferContext&) = infer_reduction) {
  return {
      .op = op,
      .attributes = {{.name = "axes", .type = AttributeType::integers, .default_value = std::vector<int64_t>{}},
                     integer("keepdims", 1),
                     integer("noop_with_empty_axes", 0)},
      .static_operands = {{1, "axes"}},
      .infer = infer,
      .gradient = gradient,
      .cost = cost,
  };
}

OpDef sum_reduction() {
  OpDef def = reduction(OpKind::ReduceSum, gradient_sum, cost_per_input<1>, infer_sum);
  def.attributes.push_back(widened_attribute());
  return def;
}

OpDef arg_reduction(OpKind op) {
  return {
      .op = op,
      .attributes = {integer("axis", 0), integer("keepdims", 1), integer("select_last_index", 0)},
      .infer = infer_arg,
      .differentiable = Differentiable::constant,
      .cost = cost_per_input<1>,
  };
}

}  // namespace

#define MPC_DEFINE(name)         \
  extern const OpDef name##_def; \
  const OpDef name##_def

/// sum |x|. The derivative at 0 is 0.
MPC_DEFINE(ReduceL1) = reduction(OpKind::ReduceL1, gradient_l1, cost_per_input<2>);
/// sqrt(sum x^2).
MPC_DEFINE(ReduceL2) = reduction(OpKind::ReduceL2, gradient_l2, cost_per_input<2>);
/// log(sum x).
MPC_DEFINE(ReduceLogSum) = reduction(OpKind::ReduceLogSum, gradient_log_sum, cost_per_input<2>);
/// m + log(sum e^(x - m)) with m the greatest element.
MPC_DEFINE(ReduceLogSumExp) = reduction(OpKind::ReduceLogSumExp, gradient_log_sum_exp, cost_per_input<3>);
/// NaN in a group gives NaN. Also of bool (or).
MPC_DEFINE(ReduceMax) = reduction(OpKind::ReduceMax, gradient_extremum, cost_per_input<1>, infer_axes);
/// Integers are divided towards zero.
MPC_DEFINE(ReduceMean) = reduction(OpKind::ReduceMean, gradient_mean, cost_per_input<1>);
/// NaN in a group gives NaN. Also of bool (and).
MPC_DEFINE(ReduceMin) = reduction(OpKind::ReduceMin, gradient_extremum, cost_per_input<1>, infer_axes);
MPC_DEFINE(ReduceProd) = reduction(OpKind::ReduceProd, gradient_prod, cost_per_input<1>);
/// `to`: compiler/ops/widened.h.
MPC_DEFINE(ReduceSum) = sum_reduction();
/// sum x^2.
MPC_DEFINE(ReduceSumSquare) = reduction(OpKind::ReduceSumSquare, gradient_sum_square, cost_per_input<2>);

/// The index of the greatest (least) element along an axis, the first one or the last one of equals. NaN counts as the
/// greatest (least).
MPC_DEFINE(ArgMax) = arg_reduction(OpKind::ArgMax);
MPC_DEFINE(ArgMin) = arg_reduction(OpKind::ArgMin);

/// y[i] = sum of x[j] with j <= i (exclusive: j < i; reverse: j >= i, j > i) along an axis. One FLOP per element.
MPC_DEFINE(CumSum) = {
    .op = OpKind::CumSum,
    .attributes = {{.name = "axis", .type = AttributeType::integer}, integer("exclusive", 0), integer("reverse", 0)},
    .static_operands = {{1, "axis"}},
    .infer = infer_cumsum,
    .gradient = gradient_cumsum,
};

}  // namespace mpc::ops
