#include <cmath>

#include <fmt/format.h>

#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

// Losses over classes (ONNX 13 and 22), with N items of C classes at any number of positions:
//   scores (N, C, d1...)   labels (N, d1...) of i32 or i64   weights (C)
// The attribute `scale` (mpc's own, default 1) multiplies the loss, and so its gradient: a micro-batch of n_i out of N
// items has scale n_i / N. Items whose label is ignore_index count nothing; a mean over no items (or over weights that
// sum to 0) is 0, where ONNX leaves 0 / 0 open.

namespace mpc::ops {
namespace {

std::vector<AttributeSpec> loss_attributes() {
  return {{"ignore_index", AttributeType::integer, {}, true},
          {"reduction", AttributeType::text, std::string("mean")},
          {"scale", AttributeType::number, 1.0}};
}

/// Checks scores, labels and weights (operands first, first + 1, first + 2) and the attributes. @return the shape of
/// the loss.
Shape loss_shape(const InferContext& context, int first) {
  context.require_float(first);
  context.require_min_rank(first, 2);
  const Shape& scores = context.input(first).shape;
  const TensorType& labels = context.input(first + 1);
  if (labels.dtype != DType::i32 && labels.dtype != DType::i64) {
    context.fail(ErrorId::M030, fmt::format("the labels are {}, i32 or i64 is needed", dtype_name(labels.dtype)));
  }
  std::vector<int64_t> dims = scores.to_vector();
  dims.erase(dims.begin() + 1);
  if (labels.shape.to_vector() != dims) {
    context.fail(ErrorId::M032, fmt::format("the labels have shape {}, for scores {} it must be {}",
                                            to_string(labels.shape), to_string(scores), to_string(Shape(dims))));
  }
  if (context.has_input(first + 2)) {
    context.require_same_dtype(first, first + 2);
    const Shape& weights = context.input(first + 2).shape;
    if (weights != Shape{scores[1]}) {
      context.fail(ErrorId::M032,
                   fmt::format("the weights have shape {}, ({}) is needed", to_string(weights), scores[1]));
    }
  }
  if (!std::isfinite(context.attributes().number("scale"))) context.fail(ErrorId::M031, "scale must be finite");
  const std::string& reduction = context.attributes().text("reduction");
  if (reduction == "none") return labels.shape;
  if (reduction == "mean" || reduction == "sum") return Shape{};
  context.fail(ErrorId::M031, fmt::format("reduction '{}' is not known", escaped(reduction, 40)),
               "use none, mean or sum");
}

void infer_softmax_cross_entropy(InferContext& context) {
  const Shape loss = loss_shape(context, 0);
  context.set_output(0, context.input(0).dtype, loss);
  context.set_output(1, context.input(0).dtype, context.input(0).shape);
}

void infer_negative_log_likelihood(InferContext& context) {
  context.set_output(0, context.input(0).dtype, loss_shape(context, 0));
}

void infer_loss_grad(InferContext& context) {
  const Shape loss = loss_shape(context, 1);
  context.require_same_dtype(0, 1);
  if (context.input(0).shape != loss) {
    context.fail(ErrorId::M032, fmt::format("dloss has shape {}, the loss has {}", to_string(context.input(0).shape),
                                            to_string(loss)));
  }
  context.set_output(0, context.input(1).dtype, context.input(1).shape);
}

ValueId loss_grad(GradientContext& context, OpKind op) {
  return context.emit(op, {context.output_grad(0), context.input(0), context.input(1), context.input(2)},
                      context.attributes());
}

void softmax_cross_entropy_gradient(GradientContext& context) {
  ValueId total;
  if (context.output_grad(0).is_valid()) total = loss_grad(context, OpKind::SoftmaxCrossEntropyLossGrad);
  if (context.output_grad(1).is_valid()) {
    const ValueId by_log_prob =
        context.emit(OpKind::LogSoftmaxGrad, {context.output_grad(1), context.output(1)}, {{"axis", int64_t{1}}});
    total = total.is_valid() ? context.add(total, by_log_prob) : by_log_prob;
  }
  context.set_input_grad(0, total);
}

void negative_log_likelihood_gradient(GradientContext& context) {
  context.set_input_grad(0, loss_grad(context, OpKind::NegativeLogLikelihoodLossGrad));
}

/// The softmax (5 per score), and per item a weight, a negation and a sum.
OpQuantities softmax_cross_entropy_cost(const CostContext& context) {
  return {.flops = 5.0 * static_cast<double>(context.input(0).shape.elements()) +
                   3.0 * static_cast<double>(context.input(1).shape.elements())};
}
/// The softmax again (5 per score), then subtract and multiply.
OpQuantities softmax_cross_entropy_grad_cost(const CostContext& context) {
  return {.flops = 7.0 * static_cast<double>(context.output(0).shape.elements())};
}
OpQuantities negative_log_likelihood_cost(const CostContext& context) {
  return {.flops = 3.0 * static_cast<double>(context.input(1).shape.elements())};
}

}  // namespace

/// l = -w[label] log_softmax(scores)[label]; loss = scale * l, its sum, or sum(l) / sum(w[label]) (`reduction` none,
/// sum, mean). log_prob (optional) is the log_softmax over the classes. Accumulates in double (reference) or f32. 5
/// FLOPs per score and 3 per item. A label that is out of range ends the step (M033). ONNX 13.
extern const OpDef SoftmaxCrossEntropyLoss_def;
const OpDef SoftmaxCrossEntropyLoss_def = {
    .op = OpKind::SoftmaxCrossEntropyLoss,
    .min_inputs = 2,
    .max_inputs = 3,
    .max_outputs = 2,
    .attributes = loss_attributes(),
    .infer = infer_softmax_cross_entropy,
    .gradient = softmax_cross_entropy_gradient,
    .cost = softmax_cross_entropy_cost,
    .no_gradient_inputs = {1, 2},
};

/// dscores = dloss scale w[label] (softmax(scores) - onehot(label)), divided by sum(w[label]) for the mean, from
/// (dloss, scores, labels, weights?). Makes the softmax again rather than keep log_prob. 7 FLOPs per score.
extern const OpDef SoftmaxCrossEntropyLossGrad_def;
const OpDef SoftmaxCrossEntropyLossGrad_def = {
    .op = OpKind::SoftmaxCrossEntropyLossGrad,
    .min_inputs = 3,
    .max_inputs = 4,
    .attributes = loss_attributes(),
    .infer = infer_loss_grad,
    .differentiable = Differentiable::no,
    .cost = softmax_cross_entropy_grad_cost,
};

/// l = -w[target] input[target], reduced as in SoftmaxCrossEntropyLoss; `input` holds log-probabilities. 3 FLOPs per
/// item. ONNX 22.
extern const OpDef NegativeLogLikelihoodLoss_def;
const OpDef NegativeLogLikelihoodLoss_def = {
    .op = OpKind::NegativeLogLikelihoodLoss,
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes = loss_attributes(),
    .infer = infer_negative_log_likelihood,
    .gradient = negative_log_likelihood_gradient,
    .cost = negative_log_likelihood_cost,
    .no_gradient_inputs = {1, 2},
};

/// dinput = -dloss scale w[target] at each target (divided by sum(w[target]) for the mean) and zero elsewhere, from
/// (dloss, input, target, weight?). Of `input` only the shape is used.
extern const OpDef NegativeLogLikelihoodLossGrad_def;
const OpDef NegativeLogLikelihoodLossGrad_def = {
    .op = OpKind::NegativeLogLikelihoodLossGrad,
    .min_inputs = 3,
    .max_inputs = 4,
    .attributes = loss_attributes(),
    .infer = infer_loss_grad,
    .differentiable = Differentiable::no,
};

}  // namespace mpc::ops
