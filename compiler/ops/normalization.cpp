#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "compiler/base/text.h"
#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"
#include "compiler/ops/widened.h"

// Normalizations: BatchNormalization (ONNX 15), LayerNormalization (17), RMSNormalization (23).

namespace mpc::ops {
namespace {

// The output that is the first one in 16 bits: LayerNormalization has its statistics before it.
constexpr int kRoundedOfLayer = 3;
constexpr int kRoundedOfOthers = 1;

// Batch normalization: x (N, C, d1...), everything else (C).

void require_channels(const InferContext& context, int i, int64_t channels) {
  context.require_float(i);
  const Shape& shape = context.input(i).shape;
  if (shape != Shape{channels}) {
    context.fail(ErrorId::M032, fmt::format("input {} has shape {}, x has {} channels", i, to_string(shape), channels));
  }
}

void require_epsilon(const InferContext& context) {
  const double epsilon = context.attributes().number("epsilon");
  if (!(epsilon >= 0) || !std::isfinite(epsilon)) {
    context.fail(ErrorId::M031, fmt::format("epsilon is {}, must be 0 or more", epsilon));
  }
}

void require_batch_operands(const InferContext& context) {
  context.require_float(0);
  context.require_min_rank(0, 2);
  for (int i = 1; i < 5; ++i) require_channels(context, i, context.input(0).shape[1]);
  context.require_same_dtype(1, 2);
  context.require_same_dtype(3, 4);
  require_epsilon(context);
}

void infer_batch_normalization(InferContext& context) {
  if (context.attributes().flag("training_mode")) {
    context.fail(ErrorId::M046, "training_mode 1 is the operator BatchNormalizationTraining here");
  }
  require_batch_operands(context);
  context.set_output(0, context.input(0).dtype, context.input(0).shape);
}

/// Statistics are kept in f32, and in f64 for f64 tensors.
DType statistics_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

void infer_batch_normalization_training(InferContext& context) {
  require_batch_operands(context);
  const TensorType x = context.input(0);
  const Shape channels{x.shape[1]};
  context.set_output(0, x.dtype, x.shape);
  context.set_output(1, context.input(3).dtype, channels);
  context.set_output(2, context.input(4).dtype, channels);
  context.set_output(3, statistics_dtype(x.dtype), channels);
  context.set_output(4, statistics_dtype(x.dtype), channels);
}

void infer_batch_normalization_grad(InferContext& context) {
  context.require_float(0);
  context.require_same_dtype(0, 1);
  context.require_min_rank(1, 2);
  const TensorType x = context.input(1);
  if (context.input(0).shape != x.shape) {
    context.fail(ErrorId::M032,
                 fmt::format("dy {} and x {} differ", to_string(context.input(0).shape), to_string(x.shape)));
  }
  require_channels(context, 2, x.shape[1]);
  if (context.has_input(3) != context.has_input(4)) context.fail(ErrorId::M022, "inputs 3 and 4 come together");
  for (int i = 3; i < 5; ++i) {
    if (!context.has_input(i)) continue;
    require_channels(context, i, x.shape[1]);
    if (context.input(i).dtype != statistics_dtype(x.dtype)) {
      context.fail(ErrorId::M030,
                   fmt::format("input {} is {}, the statistics of {} are {}", i, dtype_name(context.input(i).dtype),
                               dtype_name(x.dtype), dtype_name(statistics_dtype(x.dtype))));
    }
  }
  require_epsilon(context);
  context.set_output(0, x.dtype, x.shape);
  context.set_output(1, context.input(2).dtype, context.input(2).shape);
  context.set_output(2, context.input(2).dtype, context.input(2).shape);
}

ValueId cast_to(GradientContext& context, ValueId value, DType dtype) {
  if (context.dtype(value) == dtype) return value;
  return context.emit(OpKind::Cast, {value}, {{"to", std::string(dtype_name(dtype))}});
}

/// dx = dy scale / sqrt(var + eps), dscale = sum(dy (x - mean)) / sqrt(var + eps), dbias = sum(dy). Sums are made in
/// the dtype of the parameters.
void batch_normalization_gradient(GradientContext& context) {
  const DType x_dtype = context.dtype(context.input(0));
  const DType dtype = context.dtype(context.input(1));
  const Shape x_shape = context.shape(context.input(0));
  const Shape channels = context.shape(context.input(1));
  std::vector<int64_t> spread(static_cast<size_t>(x_shape.rank()), 1);  // (1, C, 1...)
  spread[1] = channels[0];
  std::vector<int64_t> axes = {0};
  for (int axis = 2; axis < x_shape.rank(); ++axis) axes.push_back(axis);
  const Attributes sum_attributes = {{"axes", axes}, {"keepdims", int64_t{0}}};
  const ValueId dy = cast_to(context, context.output_grad(0), dtype);

  ValueId inverse;  // 1 / sqrt(var + eps), (C)
  if (context.needs(0) || context.needs(1)) {
    const ValueId variance = cast_to(context, context.input(4), dtype);
    const ValueId shifted = context.add(variance, context.scalar(context.attributes().number("epsilon"), dtype));
    inverse = context.emit(OpKind::Reciprocal, {context.emit(OpKind::Sqrt, {shifted})});
  }
  if (context.needs(0)) {
    const ValueId factor = context.reshape(context.mul(context.input(1), inverse), Shape(spread));
    context.set_input_grad(0, cast_to(context, context.mul(dy, factor), x_dtype));
  }
  if (context.needs(1)) {
    const ValueId mean = context.reshape(cast_to(context, context.input(3), dtype), Shape(spread));
    const ValueId centered = context.sub(cast_to(context, context.input(0), dtype), mean);
    const ValueId sum = context.emit(OpKind::ReduceSum, {context.mul(dy, centered)}, sum_attributes, "scale");
    context.set_input_grad(1, context.mul(sum, inverse));
  }
  if (context.needs(2)) context.set_input_grad(2, context.emit(OpKind::ReduceSum, {dy}, sum_attributes, "bias"));
}

/// One node for all three: the sums that dscale and dbias are, dx needs too.
void batch_normalization_training_gradient(GradientContext& context) {
  const std::vector<bool> wanted = {context.needs(0), context.needs(1), context.needs(2)};
  std::vector<ValueId> inputs = {context.output_grad(0), context.input(0), context.input(1)};
  if (context.output(3).is_valid() && context.output(4).is_valid()) {
    inputs.push_back(context.output(3));
    inputs.push_back(context.output(4));
  }
  const Attributes attributes = {{"epsilon", context.attributes().number("epsilon")}};
  const auto grads = context.emit_some(OpKind::BatchNormalizationGrad, inputs, wanted, attributes);
  for (int i = 0; i < 3; ++i) {
    if (context.needs(i)) context.set_input_grad(i, grads[static_cast<size_t>(i)]);
  }
}

/// A multiply and an add per element.
OpQuantities batch_normalization_cost(const CostContext& context) {
  return {.flops = 2.0 * static_cast<double>(context.input(0).shape.elements())};
}
/// Mean (1), variance (3), then as above (2).
OpQuantities batch_normalization_training_cost(const CostContext& context) {
  return {.flops = 6.0 * static_cast<double>(context.input(0).shape.elements())};
}
/// xhat (2), the two sums (3), dx (4).
OpQuantities norm_grad_cost(const CostContext& context) {
  return {.flops = 9.0 * static_cast<double>(context.input(0).shape.elements())};
}

// Layer and RMS normalization: x (outer..., inner...), normalized over the dimensions from `axis` on.

int normalize_from(InferContext& context, const Shape& x) {
  const int axis = context.axis("axis", x.rank());
  context.set_attribute("axis", int64_t{axis});
  require_epsilon(context);
  const int64_t stash_type = context.attributes().integer("stash_type");
  if (stash_type != 1 && stash_type != 16) {
    context.fail(ErrorId::M031, fmt::format("stash_type is {}, must be 1 (f32) or 16 (bf16)", stash_type));
  }
  return axis;
}

void require_broadcast_to_x(const InferContext& context, int i, const Shape& x) {
  const Shape& shape = context.input(i).shape;
  if (broadcast(shape, x) != x) {
    context.fail(ErrorId::M032, fmt::format("input {} has shape {}, which does not broadcast to x {}", i,
                                            to_string(shape), to_string(x)));
  }
}

/// The output `at` is the first one once more, in the 16 bits that the attribute `rounded` says (passes/fold_casts).
void set_rounded(InferContext& context, int at, const TensorType& type) {
  const Attribute* attribute = context.attributes().find("rounded");
  if (attribute == nullptr && context.output_count() <= at) return;
  const std::string to = attribute == nullptr ? "" : context.attributes().text("rounded");
  const auto dtype = parse_dtype(to);
  const bool is_half = dtype == DType::bf16 || dtype == DType::f16;
  if (!is_half || type.dtype != DType::f32 || context.output_count() <= at) {
    context.fail(ErrorId::M031,
                 fmt::format("rounded is '{}' for a result of {} and {} outputs", escaped(to, 100),
                             dtype_name(type.dtype), context.output_count()),
                 fmt::format("it is bf16 or f16 where the result is f32 and output {} takes it", at));
  }
  context.set_output(at, *dtype, type.shape);
}

/// Normalizations are given rounded outputs after the gradients are made: met in a graph written by hand only.
void require_not_rounded(const GradientContext& context, std::string_view op) {
  if (!context.attributes().has("rounded")) return;
  throw Error(ErrorId::M044, std::string(op), "a normalization that was fused with a Cast has no gradient");
}

void infer_layer_normalization(InferContext& context) {
  context.require_float(0);
  const TensorType x = context.input(0);
  for (int i = 1; i < 3; ++i) {
    if (!context.has_input(i)) continue;
    context.require_same_dtype(0, i);
    require_broadcast_to_x(context, i, x.shape);
  }
  const int axis = normalize_from(context, x.shape);
  Shape statistics = x.shape;
  for (int i = axis; i < x.shape.rank(); ++i) statistics.set(i, 1);
  const DType stash = context.attributes().integer("stash_type") == 1 ? DType::f32 : DType::bf16;
  context.set_output(0, x.dtype, x.shape);
  context.set_output(1, stash, statistics);
  context.set_output(2, stash, statistics);
  set_rounded(context, kRoundedOfLayer, x);
}

void infer_rms_normalization(InferContext& context) {
  context.require_float(0);
  context.require_float(1);
  const Shape& x = context.input(0).shape;
  require_broadcast_to_x(context, 1, x);
  normalize_from(context, x);
  context.set_output(0, context.input(1).dtype, x);
  set_rounded(context, kRoundedOfOthers, {context.input(1).dtype, x});
}

void require_dy_like_x(const InferContext& context) {
  context.require_float(0);
  context.require_float(1);
  if (context.input(0).shape == context.input(1).shape) return;
  context.fail(ErrorId::M032, fmt::format("dy {} and x {} differ", to_string(context.input(0).shape),
                                          to_string(context.input(1).shape)));
}

void infer_norm_grad(InferContext& context) {
  require_dy_like_x(context);
  const TensorType x = context.input(1);
  const DType dy = context.input(0).dtype;
  const bool is_narrow = (dy == DType::bf16 || dy == DType::f16) && context.input(2).dtype == DType::f32;
  if (!is_narrow) context.require_same_dtype(0, 2);
  require_broadcast_to_x(context, 2, x.shape);
  if (context.has_input(3)) {
    context.require_same_dtype(1, 3);
    if (context.input(3).shape != x.shape) {
      context.fail(ErrorId::M032, fmt::format("what is added has shape {}, x {}", to_string(context.input(3).shape),
                                              to_string(x.shape)));
    }
  }
  normalize_from(context, x.shape);
  context.set_output(0, x.dtype, x.shape);
  set_rounded(context, kRoundedOfOthers, x);
}

void infer_norm_weight_grad(InferContext& context) {
  require_dy_like_x(context);
  const Shape& x = context.input(1).shape;
  const int axis = normalize_from(context, x);
  const Shape weight(x.dims().subspan(static_cast<size_t>(axis)));
  const DType dtype = widened(context, context.input(0).dtype);
  context.set_output(0, dtype, weight);
  context.set_output(1, dtype, weight);
}

/// Does `shape` (a scale or bias) vary only along the normalized dimensions, so that a *WeightGrad can sum for it?
bool is_per_normalized_element(const Shape& shape, const Shape& x, int64_t axis) {
  const int beyond = shape.rank() - (x.rank() - static_cast<int>(axis));
  return beyond <= 0 || shape.elements(0, beyond) == 1;
}

/// d(loss)/d(scale) when the scale also varies along the outer dimensions: dy xhat, xhat being the output for a scale
/// of 1.
ValueId scale_grad_by_xhat(GradientContext& context, OpKind forward) {
  const ValueId dy = context.output_grad(0);
  const ValueId one = context.scalar(1.0, context.dtype(context.input(1)));
  const ValueId xhat = context.emit(forward, {context.input(0), one}, context.attributes(), "xhat");
  const Shape scale = context.shape(context.input(1));
  return context.reduce_to(context.mul(dy, xhat), scale);
}

/// `gradient`, summed over all dimensions but the normalized ones, as the gradient of operand `i`.
void set_weight_grad(GradientContext& context, int i, ValueId gradient) {
  const Shape to = context.shape(context.input(i));
  const int beyond = std::max(to.rank() - context.shape(gradient).rank(), 0);
  const Shape inner(to.dims().subspan(static_cast<size_t>(beyond)));
  context.set_input_grad(i, context.reshape(context.reduce_to(gradient, inner), to));
}

void layer_normalization_gradient(GradientContext& context) {
  require_not_rounded(context, "LayerNormalization");
  if (context.output_grad(1).is_valid() || context.output_grad(2).is_valid()) {
    throw Error(ErrorId::M044, "LayerNormalization", "the gradient of the outputs Mean and InvStdDev is not supported");
  }
  const ValueId dy = context.output_grad(0);
  const ValueId x = context.input(0);
  const Shape x_shape = context.shape(x);
  const Attributes attributes = context.attributes();
  const int64_t axis = attributes.integer("axis");
  if (context.needs(0)) {
    context.set_input_grad(0, context.emit(OpKind::LayerNormalizationGrad, {dy, x, context.input(1)}, attributes, "x"));
  }
  bool wants_scale = context.needs(1);
  bool wants_bias = context.needs(2);
  if (wants_scale && !is_per_normalized_element(context.shape(context.input(1)), x_shape, axis)) {
    context.set_input_grad(1, scale_grad_by_xhat(context, OpKind::LayerNormalization));
    wants_scale = false;
  }
  if (wants_bias && !is_per_normalized_element(context.shape(context.input(2)), x_shape, axis)) {
    const Shape bias = context.shape(context.input(2));
    context.set_input_grad(2, context.reduce_to(dy, bias));
    wants_bias = false;
  }
  if (!wants_scale && !wants_bias) return;
  const auto grads =
      context.emit_some(OpKind::LayerNormalizationWeightGrad, {dy, x}, {wants_scale, wants_bias}, attributes, "scale");
  if (wants_scale) set_weight_grad(context, 1, grads[0]);
  if (wants_bias) set_weight_grad(context, 2, grads[1]);
}

void rms_normalization_gradient(GradientContext& context) {
  require_not_rounded(context, "RMSNormalization");
  const ValueId dy = context.output_grad(0);
  const ValueId x = context.input(0);
  const Attributes attributes = context.attributes();
  if (context.needs(0)) {
    context.set_input_grad(0, context.emit(OpKind::RMSNormalizationGrad, {dy, x, context.input(1)}, attributes, "x"));
  }
  if (!context.needs(1)) return;
  if (is_per_normalized_element(context.shape(context.input(1)), context.shape(x), attributes.integer("axis"))) {
    set_weight_grad(context, 1, context.emit(OpKind::RMSNormalizationWeightGrad, {dy, x}, attributes, "scale"));
  } else {
    context.set_input_grad(1, scale_grad_by_xhat(context, OpKind::RMSNormalization));
  }
}

/// Mean (1), variance (3), normalize (2), scale and bias (2).
OpQuantities layer_normalization_cost(const CostContext& context) {
  return {.flops = 8.0 * static_cast<double>(context.input(0).shape.elements())};
}
/// Squares and their sum (2), normalize (1), scale (1).
OpQuantities rms_normalization_cost(const CostContext& context) {
  return {.flops = 4.0 * static_cast<double>(context.input(0).shape.elements())};
}

/// @param more one that not all of them have.
std::vector<AttributeSpec> norm_attributes(AttributeSpec more) {
  return {{"axis", AttributeType::integer, int64_t{-1}},
          {"epsilon", AttributeType::number, 1e-5},
          {"stash_type", AttributeType::integer, int64_t{1}},
          std::move(more)};
}

AttributeSpec rounded_attribute() {
  return {.name = "rounded", .type = AttributeType::text, .is_optional = true};
}

}  // namespace

/// y = (x - mean) / sqrt(var + epsilon) * scale + B with the given statistics per channel. 2 FLOPs per element. ONNX 15
/// with training_mode 0. Gradients reach x, scale and B.
extern const OpDef BatchNormalization_def;
const OpDef BatchNormalization_def = {
    .op = OpKind::BatchNormalization,
    .min_inputs = 5,
    .max_inputs = 5,
    .attributes = {{"epsilon", AttributeType::number, 1e-5},
                   {"momentum", AttributeType::number, 0.9},
                   {"training_mode", AttributeType::integer, int64_t{0}}},
    .infer = infer_batch_normalization,
    .gradient = batch_normalization_gradient,
    .cost = batch_normalization_cost,
    .no_gradient_inputs = {3, 4},
};

/// (x, scale, B, mean, var) -> y, mean', var', batch_mean, batch_invstd: ONNX 15 with training_mode 1. The batch's mean
/// and population variance per channel normalize x; mean' = mean * momentum + batch_mean * (1 - momentum), var'
/// likewise, written in place. The last two outputs are kept for the gradient: (C), f32 (f64 for f64). Accumulates in
/// double (reference) or f32. An x without elements leaves mean and var as they are. 6 FLOPs per element.
extern const OpDef BatchNormalizationTraining_def;
const OpDef BatchNormalizationTraining_def = {
    .op = OpKind::BatchNormalizationTraining,
    .min_inputs = 5,
    .max_inputs = 5,
    .max_outputs = 5,
    .attributes = {{"epsilon", AttributeType::number, 1e-5}, {"momentum", AttributeType::number, 0.9}},
    .infer = infer_batch_normalization_training,
    .gradient = batch_normalization_training_gradient,
    .cost = batch_normalization_training_cost,
    .no_gradient_inputs = {3, 4},
};

/// (dy, x, scale, batch_mean?, batch_invstd?) -> dx?, dscale?, dbias? of BatchNormalizationTraining; statistics that
/// are absent are computed again from x. With m elements per channel: dbias = sum(dy), dscale = sum(dy xhat), dx =
/// scale invstd (dy - (dbias + xhat dscale) / m). 9 FLOPs per element.
extern const OpDef BatchNormalizationGrad_def;
const OpDef BatchNormalizationGrad_def = {
    .op = OpKind::BatchNormalizationGrad,
    .min_inputs = 3,
    .max_inputs = 5,
    .max_outputs = 3,
    .attributes = {{"epsilon", AttributeType::number, 1e-5}},
    .infer = infer_batch_normalization_grad,
    .differentiable = Differentiable::no,
    .cost = norm_grad_cost,
};

/// y = (x - mean) / sqrt(var + epsilon) * scale + B, mean and population variance over the dimensions from `axis` on;
/// scale and B broadcast to x. Mean and InvStdDev (optional, dtype by stash_type) have those dimensions as 1.
/// Accumulates in double (reference) or f32. 8 FLOPs per element. ONNX 17. Fused: output 3 is y rounded to the 16 bits
/// that `rounded` names, and y may be absent.
extern const OpDef LayerNormalization_def;
const OpDef LayerNormalization_def = {
    .op = OpKind::LayerNormalization,
    .min_inputs = 2,
    .max_inputs = 3,
    .max_outputs = 4,
    .attributes = norm_attributes(rounded_attribute()),
    .infer = infer_layer_normalization,
    .gradient = layer_normalization_gradient,
    .cost = layer_normalization_cost,
};

/// dx of LayerNormalization from (dy, x, scale); statistics are computed again. With g = dy scale and n normalized
/// elements: dx = invstd (g - (sum(g) + xhat sum(g xhat)) / n). 9 FLOPs per element. A fourth operand (fuse_products)
/// is added to dx after dx is rounded. dy may be of 16 bits where the rest is f32. Output 1 is dx in 16 bits, as of
/// LayerNormalization.
extern const OpDef LayerNormalizationGrad_def;
const OpDef LayerNormalizationGrad_def = {
    .op = OpKind::LayerNormalizationGrad,
    .min_inputs = 3,
    .max_inputs = 4,
    .max_outputs = 2,
    .attributes = norm_attributes(rounded_attribute()),
    .infer = infer_norm_grad,
    .differentiable = Differentiable::no,
    .cost = norm_grad_cost,
};

/// (dy, x) -> dscale?, dbias? of LayerNormalization, of the shape of the normalized dimensions: the sums over all
/// others of dy xhat and of dy. 9 FLOPs per element. `to`: compiler/ops/widened.h.
extern const OpDef LayerNormalizationWeightGrad_def;
const OpDef LayerNormalizationWeightGrad_def = {
    .op = OpKind::LayerNormalizationWeightGrad,
    .min_inputs = 2,
    .max_inputs = 2,
    .max_outputs = 2,
    .attributes = norm_attributes(widened_attribute()),
    .infer = infer_norm_weight_grad,
    .differentiable = Differentiable::no,
    .cost = norm_grad_cost,
};

/// y = x / sqrt(mean(x^2) + epsilon) * scale, the mean over the dimensions from `axis` on; scale broadcasts to x, and y
/// has its dtype. Accumulates in double (reference) or f32. 4 FLOPs per element. ONNX 23. Fused: output 1 as output 3
/// of LayerNormalization.
extern const OpDef RMSNormalization_def;
const OpDef RMSNormalization_def = {
    .op = OpKind::RMSNormalization,
    .min_inputs = 2,
    .max_inputs = 2,
    .max_outputs = 2,
    .attributes = norm_attributes(rounded_attribute()),
    .infer = infer_rms_normalization,
    .gradient = rms_normalization_gradient,
    .cost = rms_normalization_cost,
};

/// dx of RMSNormalization from (dy, x, scale): with g = dy scale, dx = invrms (g - xhat sum(g xhat) / n). A fourth
/// operand is added as above.
/// 9 FLOPs per element at most.
extern const OpDef RMSNormalizationGrad_def;
const OpDef RMSNormalizationGrad_def = {
    .op = OpKind::RMSNormalizationGrad,
    .min_inputs = 3,
    .max_inputs = 4,
    .max_outputs = 2,
    .attributes = norm_attributes(rounded_attribute()),
    .infer = infer_norm_grad,
    .differentiable = Differentiable::no,
    .cost = norm_grad_cost,
};

/// (dy, x) -> dscale of RMSNormalization, of the shape of the normalized dimensions: the sum over all others of dy
/// xhat. `to`: compiler/ops/widened.h.
extern const OpDef RMSNormalizationWeightGrad_def;
const OpDef RMSNormalizationWeightGrad_def = {
    .op = OpKind::RMSNormalizationWeightGrad,
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = norm_attributes(widened_attribute()),
    .infer = infer_norm_weight_grad,
    .differentiable = Differentiable::no,
    .cost = norm_grad_cost,
};

}  // namespace mpc::ops
