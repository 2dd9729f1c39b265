#include <cmath>

#include <fmt/format.h>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

// Attention as one op, and its gradient. No ONNX operator: passes/attention makes it of what models contain. Operands
// are (batch, sequence, heads, width), as projections leave them, so that no transpose stands around it.

namespace mpc::ops {
namespace {

DType log_sum_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

/// Checks q, k, v at `first`. @return the shape of y.
Shape require_operands(const InferContext& context, int first) {
  context.require_float(first);
  for (int i = first; i < first + 3; ++i) {
    context.require_same_dtype(first, i);
    context.require_rank(i, 4);
  }
  const Shape& q = context.input(first).shape;
  const Shape& k = context.input(first + 1).shape;
  const Shape& v = context.input(first + 2).shape;
  const bool fits = q[0] == k[0] && q[0] == v[0] && q[2] == k[2] && q[2] == v[2] && q[3] == k[3] && k[1] == v[1];
  if (!fits || k[1] == 0) {
    context.fail(ErrorId::M032, fmt::format("q {}, k {} and v {} must be (batch, sequence, heads, width) of one batch, "
                                            "as many heads, and keys as wide as queries; at least one key",
                                            to_string(q), to_string(k), to_string(v)));
  }
  if (!std::isfinite(context.attributes().number("scale"))) {
    context.fail(ErrorId::M031, fmt::format("scale is {}, must be finite", context.attributes().number("scale")));
  }
  if (context.attributes().flag("is_causal") && q[1] != k[1]) {
    context.fail(ErrorId::M032, fmt::format("is_causal 1 with {} queries and {} keys: must be as many", q[1], k[1]));
  }
  return Shape{q[0], q[1], q[2], v[3]};
}

void infer_attention(InferContext& context) {
  const Shape y = require_operands(context, 0);
  const DType dtype = context.input(0).dtype;
  context.set_output(0, dtype, y);
  context.set_output(1, log_sum_dtype(dtype), Shape{y[0], y[2], y[1]});
}

void infer_attention_grad(InferContext& context) {
  const Shape y = require_operands(context, 1);
  context.require_same_dtype(0, 1);
  context.require_same_dtype(0, 4);
  const DType dtype = context.input(1).dtype;
  const Shape log_sum{y[0], y[2], y[1]};
  if (context.input(0).shape != y || context.input(4).shape != y || context.input(5).shape != log_sum) {
    context.fail(ErrorId::M032,
                 fmt::format("dy {}, y {} and log_sum {} must be {}, {} and {}", to_string(context.input(0).shape),
                             to_string(context.input(4).shape), to_string(context.input(5).shape), to_string(y),
                             to_string(y), to_string(log_sum)));
  }
  if (context.input(5).dtype != log_sum_dtype(dtype)) {
    context.fail(ErrorId::M030, fmt::format("log_sum is {}, must be {}", dtype_name(context.input(5).dtype),
                                            dtype_name(log_sum_dtype(dtype))));
  }
  for (int i = 0; i < 3; ++i) context.set_output(i, dtype, context.input(i + 1).shape);
}

/// One node for all three: they share the recomputed probabilities.
void attention_gradient(GradientContext& context) {
  if (context.output_grad(1).is_valid()) {
    throw Error(ErrorId::M044, "ScaledDotProductAttention", "the gradient of the output log_sum is not supported");
  }
  const Attributes attributes = context.attributes();
  const ValueId q = context.input(0);
  const ValueId k = context.input(1);
  const ValueId v = context.input(2);
  ValueId log_sum = context.output(1);
  if (!log_sum.is_valid())
    log_sum = context.emit_many(OpKind::ScaledDotProductAttention, {q, k, v}, 2, attributes, "log_sum")[1];
  const std::vector<bool> wanted = {context.needs(0), context.needs(1), context.needs(2)};
  const auto grads =
      context.emit_some(OpKind::ScaledDotProductAttentionGrad,
                        {context.output_grad(0), q, k, v, context.output(0), log_sum}, wanted, attributes);
  for (int i = 0; i < 3; ++i) {
    if (context.needs(i)) context.set_input_grad(i, grads[static_cast<size_t>(i)]);
  }
}

/// Pairs of a query and a key that it may look at.
double pairs_of(const CostContext& context, int first) {
  const Shape& q = context.input(first).shape;
  const double queries = static_cast<double>(q[1]);
  const double keys = static_cast<double>(context.input(first + 1).shape[1]);
  const double looked_at = context.attributes.flag("is_causal") ? queries * (queries + 1) / 2 : queries * keys;
  return static_cast<double>(q[0] * q[2]) * looked_at;
}

/// Per pair: a product of width(q), one of width(v), and 5 for the softmax.
OpQuantities attention_cost(const CostContext& context) {
  const double width = static_cast<double>(context.input(0).shape[3]);
  const double value_width = static_cast<double>(context.input(2).shape[3]);
  return {.flops = pairs_of(context, 0) * (2 * width + 2 * value_width + 5)};
}
/// Per pair: the score again, dq and dk (width(q) each), dy v and dv (width(v) each), and 7 elementwise.
OpQuantities attention_grad_cost(const CostContext& context) {
  const double width = static_cast<double>(context.input(1).shape[3]);
  const double value_width = static_cast<double>(context.input(3).shape[3]);
  return {.flops = pairs_of(context, 1) * (6 * width + 4 * value_width + 7)};
}

std::vector<AttributeSpec> attention_attributes() {
  return {{"scale", AttributeType::number, 1.0}, {"is_causal", AttributeType::integer, int64_t{0}}};
}

}  // namespace

/// From q (B, S, H, D), k (B, T, H, D), v (B, T, H, E): y (B, S, H, E) = softmax(scale q k^T) v per batch and head, and
/// log_sum (B, H, S) = log(sum(exp(scale q k^T))), which the gradient reads. is_causal: query i looks at keys 0..i.
/// Accumulates in double (reference) or f32; 2 D + 2 E + 5 FLOPs per pair. Source: arXiv:1706.03762, 3.2.1.
extern const OpDef ScaledDotProductAttention_def;
const OpDef ScaledDotProductAttention_def = {
    .op = OpKind::ScaledDotProductAttention,
    .min_inputs = 3,
    .max_inputs = 3,
    .min_outputs = 1,
    .max_outputs = 2,
    .attributes = attention_attributes(),
    .infer = infer_attention,
    .gradient = attention_gradient,
    .cost = attention_cost,
};

/// dq, dk, dv from (dy, q, k, v, y, log_sum); each may be absent. Probabilities are computed again: p = exp(scale q k^T
/// - log_sum), ds = p (dy v^T - sum(dy y)), dq = scale ds k, dk = scale ds^T q, dv = p^T dy. Source: arXiv:2205.14135,
/// algorithm 4. 6 D + 4 E + 7 FLOPs per pair.
extern const OpDef ScaledDotProductAttentionGrad_def;
const OpDef ScaledDotProductAttentionGrad_def = {
    .op = OpKind::ScaledDotProductAttentionGrad,
    .min_inputs = 6,
    .max_inputs = 6,
    .min_outputs = 1,
    .max_outputs = 3,
    .attributes = attention_attributes(),
    .infer = infer_attention_grad,
    .differentiable = Differentiable::no,
    .cost = attention_grad_cost,
};

}  // namespace mpc::ops
