#include <cmath>

#include <fmt/format.h>

#include "compiler/base/attention_parts.h"
#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

// Attention as one op, and its gradient. No ONNX operator: passes/attention makes it of what models contain. Operands
// are (batch, sequence, heads, width), as projections leave them, so that no transpose stands around it.

namespace mpc::ops {
namespace {

DType log_sum_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

/// The mask, (batch or 1, heads or 1, queries or 1, keys), if it is there as operand `at`.
void require_mask(const InferContext& context, int at, const Shape& q, int64_t keys) {
  if (context.input_count() <= at) return;
  const TensorType& mask = context.input(at);
  const DType dtype = log_sum_dtype(context.input(0).dtype);
  if (mask.dtype != dtype) {
    context.fail(ErrorId::M030, fmt::format("the mask is {}, must be {}", dtype_name(mask.dtype), dtype_name(dtype)));
  }
  const Shape whole{q[0], q[2], q[1], keys};
  const auto broadcasts = [&](int axis) { return mask.shape[axis] == 1 || mask.shape[axis] == whole[axis]; };
  if (mask.shape.rank() != whole.rank() || !broadcasts(0) || !broadcasts(1) || !broadcasts(2) ||
      mask.shape[3] != keys) {
    context.fail(ErrorId::M032, fmt::format("the mask {} must be {}, or 1 in any of the first three dimensions",
                                            to_string(mask.shape), to_string(whole)));
  }
}

/// Checks q, k, v, or qkv, at `first`, behind which there are `others` operands and perhaps a mask. @return the shape
/// of y.
Shape require_operands(const InferContext& context, int first, int others) {
  for (int i = 0; i < context.input_count(); ++i) {
    if (!context.has_input(i)) context.fail(ErrorId::M022, fmt::format("input {} is required", i));
  }
  context.require_float(first);
  const int count = static_cast<int>(attention_operands(context.input(first).shape));
  const int least = first + count + others;
  if (context.input_count() != least && context.input_count() != least + 1) {
    context.fail(ErrorId::M022, fmt::format("has {} inputs; it takes {} with {}, and one more with a mask",
                                            context.input_count(), least, count == 1 ? "qkv" : "q, k and v"));
  }
  for (int i = first; i < first + count; ++i) {
    context.require_same_dtype(first, i);
    context.require_rank(i, count == 1 ? kPackedAttentionRank : kPackedAttentionRank - 1);
  }
  if (count == 1 && context.input(first).shape[2] != kAttentionParts) {
    context.fail(ErrorId::M032, fmt::format("qkv {} must be (batch, sequence, 3, heads, width)",
                                            to_string(context.input(first).shape)));
  }
  const auto parts =
      attention_parts([&](size_t i) -> const Shape& { return context.input(first + static_cast<int>(i)).shape; });
  const Shape& q = parts[0].shape;
  const Shape& k = parts[1].shape;
  const Shape& v = parts[2].shape;
  const bool fits = q[0] == k[0] && q[0] == v[0] && q[2] == k[2] && q[2] == v[2] && q[3] == k[3] && k[1] == v[1];
  if (!fits || k[1] == 0) {
    context.fail(ErrorId::M032, fmt::format("q {}, k {} and v {} must be (batch, sequence, heads, width) of one batch, "
                                            "as many heads, and keys as wide as queries; at least one key",
                                            to_string(q), to_string(k), to_string(v)));
  }
  if (!std::isfinite(context.attributes().number("scale"))) {
    context.fail(ErrorId::M031, fmt::format("scale is {}, must be finite", context.attributes().number("scale")));
  }
  require_mask(context, least, q, k[1]);
  if (context.attributes().flag("is_causal") && q[1] != k[1]) {
    context.fail(ErrorId::M032, fmt::format("is_causal 1 with {} queries and {} keys: must be as many", q[1], k[1]));
  }
  return Shape{q[0], q[1], q[2], v[3]};
}

void infer_attention(InferContext& context) {
  const Shape y = require_operands(context, 0, 0);
  const DType dtype = context.input(0).dtype;
  context.set_output(0, dtype, y);
  context.set_output(1, log_sum_dtype(dtype), Shape{y[0], y[2], y[1]});
}

/// dy stands before them, y and log_sum after them.
void infer_attention_grad(InferContext& context) {
  constexpr int kFirst = 1;
  const Shape y = require_operands(context, kFirst, 2);
  const int at_y = kFirst + static_cast<int>(attention_operands(context.input(kFirst).shape));
  const int at_log_sum = at_y + 1;
  context.require_same_dtype(0, kFirst);
  context.require_same_dtype(0, at_y);
  const DType dtype = context.input(kFirst).dtype;
  const Shape log_sum{y[0], y[2], y[1]};
  if (context.input(0).shape != y || context.input(at_y).shape != y || context.input(at_log_sum).shape != log_sum) {
    context.fail(ErrorId::M032,
                 fmt::format("dy {}, y {} and log_sum {} must be {}, {} and {}", to_string(context.input(0).shape),
                             to_string(context.input(at_y).shape), to_string(context.input(at_log_sum).shape),
                             to_string(y), to_string(y), to_string(log_sum)));
  }
  if (context.input(at_log_sum).dtype != log_sum_dtype(dtype)) {
    context.fail(ErrorId::M030, fmt::format("log_sum is {}, must be {}", dtype_name(context.input(at_log_sum).dtype),
                                            dtype_name(log_sum_dtype(dtype))));
  }
  const int operands = at_y - kFirst;
  if (context.output_count() > operands) {
    context.fail(ErrorId::M022,
                 fmt::format("gives {} outputs, one per operand of q, k and v: {}", context.output_count(), operands));
  }
  for (int i = 0; i < operands; ++i) context.set_output(i, dtype, context.input(kFirst + i).shape);
}

/// One node for all of them: they share the recomputed probabilities.
void attention_gradient(GradientContext& context) {
  if (context.output_grad(1).is_valid()) {
    throw Error(ErrorId::M044, "ScaledDotProductAttention", "the gradient of the output log_sum is not supported");
  }
  const Attributes attributes = context.attributes();
  const int parts = static_cast<int>(attention_operands(context.shape(context.input(0))));
  if (context.input_count() > parts && context.needs(parts)) {
    throw Error(ErrorId::M044, "ScaledDotProductAttention", "the gradient of the mask is not supported");
  }
  std::vector<ValueId> operands;
  std::vector<bool> wanted;
  for (int i = 0; i < context.input_count(); ++i) operands.push_back(context.input(i));
  for (int i = 0; i < parts; ++i) wanted.push_back(context.needs(i));
  ValueId log_sum = context.output(1);
  if (!log_sum.is_valid())
    log_sum = context.emit_many(OpKind::ScaledDotProductAttention, operands, 2, attributes, "log_sum")[1];
  operands.insert(operands.begin() + parts, {context.output(0), log_sum});
  operands.insert(operands.begin(), context.output_grad(0));
  const auto grads = context.emit_some(OpKind::ScaledDotProductAttentionGrad, std::move(operands), wanted, attributes);
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i]) context.set_input_grad(static_cast<int>(i), grads[i]);
  }
}

/// q, k and v of the node, at `first`.
auto parts_of(const CostContext& context, int first) {
  return attention_parts([&](size_t i) -> const Shape& { return context.input(first + static_cast<int>(i)).shape; });
}

/// FLOPs of so many per pair of a query and a key that it may look at: 2 times `width_products` of width(q) and
/// `value_products` of width(v), and `elementwise`.
OpQuantities pair_cost(const CostContext& context, int first, double width_products, double value_products,
                       double elementwise) {
  const auto [q, k, v] = parts_of(context, first);
  const double queries = static_cast<double>(q.shape[1]);
  const double keys = static_cast<double>(k.shape[1]);
  const double looked_at = context.attributes.flag("is_causal") ? queries * (queries + 1) / 2 : queries * keys;
  const double pairs = static_cast<double>(q.shape[0] * q.shape[2]) * looked_at;
  return {.flops = pairs * (2 * width_products * static_cast<double>(q.shape[3]) +
                            2 * value_products * static_cast<double>(v.shape[3]) + elementwise)};
}

/// Per pair: a product of width(q), one of width(v), and 5 for the softmax.
OpQuantities attention_cost(const CostContext& context) {
  return pair_cost(context, 0, 1, 1, 5);
}
/// Per pair: the score again, dq and dk (width(q) each), dy v and dv (width(v) each), and 7 elementwise.
OpQuantities attention_grad_cost(const CostContext& context) {
  return pair_cost(context, 1, 3, 2, 7);
}

std::vector<AttributeSpec> attention_attributes() {
  return {{"scale", AttributeType::number, 1.0}, {"is_causal", AttributeType::integer, int64_t{0}}};
}

}  // namespace

/// From q (B, S, H, D), k (B, T, H, D), v (B, T, H, E): y (B, S, H, E) = softmax(scale q k^T) v per batch and head, and
/// log_sum (B, H, S) = log(sum(exp(scale q k^T))), which the gradient reads. is_causal: query i looks at keys 0..i.
/// q, k and v may be one operand, qkv (B, S, 3, H, D), as a projection to all three leaves them. Behind them a mask
/// (B or 1, H or 1, S or 1, T) in f32 (f64 for f64) may follow, which is added to scale q k^T; it has no gradient.
/// Accumulates in double (reference) or f32; 2 D + 2 E + 5 FLOPs per pair. Source: arXiv:1706.03762, 3.2.1.
extern const OpDef ScaledDotProductAttention_def;
const OpDef ScaledDotProductAttention_def = {
    .op = OpKind::ScaledDotProductAttention,
    .min_inputs = 1,
    .max_inputs = kAttentionParts + 1,
    .min_outputs = 1,
    .max_outputs = 2,
    .attributes = attention_attributes(),
    .infer = infer_attention,
    .gradient = attention_gradient,
    .cost = attention_cost,
};

/// dq, dk, dv from (dy, q, k, v, y, log_sum, mask?); each may be absent. Or dqkv from (dy, qkv, y, log_sum, mask?).
/// Probabilities are
/// computed again: p = exp(scale q k^T
/// - log_sum), ds = p (dy v^T - sum(dy y)), dq = scale ds k, dk = scale ds^T q, dv = p^T dy. Source: arXiv:2205.14135,
/// algorithm 4. 6 D + 4 E + 7 FLOPs per pair.
extern const OpDef ScaledDotProductAttentionGrad_def;
const OpDef ScaledDotProductAttentionGrad_def = {
    .op = OpKind::ScaledDotProductAttentionGrad,
    .min_inputs = 4,
    .max_inputs = kAttentionParts + 4,
    .min_outputs = 1,
    .max_outputs = 3,
    .attributes = attention_attributes(),
    .infer = infer_attention_grad,
    .differentiable = Differentiable::no,
    .cost = attention_grad_cost,
};

}  // namespace mpc::ops
