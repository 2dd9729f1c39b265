#include <array>

#include <fmt/format.h>

#include "compiler/ops/recurrent.h"

// GRU (ONNX 22) and its gradients, with gates z, r, h. Operands and sizes are those of recurrent.h.

namespace mpc::ops {
namespace {

// GRUInputGrad takes the gradients of the outputs after the operands of GRU.
enum GruInputGradInput : int { kDY = kInitialH + 1, kDYh };
enum GruInputGradOutput : int { kDX, kDInitialH, kDGates, kReset, kHidden };

constexpr int64_t kGateCount = 3;
constexpr std::array<std::string_view, 2> kActivations = {"Sigmoid", "Tanh"};
constexpr int kWeightGradReset = 3;
constexpr int kWeightGradSequenceLens = 4;
/// Two sigmoids, a tanh, and five more operations per hidden unit and step.
constexpr double kUnitFlops = 8.0;

std::vector<AttributeSpec> with_reset(std::vector<AttributeSpec> attributes) {
  attributes.push_back({"linear_before_reset", AttributeType::integer, int64_t{0}});
  return attributes;
}

void check_reset(const InferContext& context) {
  const int64_t value = context.attributes().integer("linear_before_reset");
  if (value == 0 || value == 1) return;
  context.fail(ErrorId::M031, fmt::format("linear_before_reset is {}, must be 0 or 1", value));
}

RecurrentDims read_gru(InferContext& context) {
  check_reset(context);
  return read_cell(context, kGateCount, kActivations);
}

/// Of the reset gates, whatever the layout of X: (S, D, B, H).
Shape reset_shape(const RecurrentDims& dims) {
  return {dims.steps, dims.directions, dims.batch, dims.hidden};
}

void infer_gru(InferContext& context) {
  const RecurrentDims dims = read_gru(context);
  const DType dtype = context.input(kX).dtype;
  context.set_output(0, dtype, dims.y());
  context.set_output(1, dtype, dims.state());
}

void infer_gru_input_grad(InferContext& context) {
  const RecurrentDims dims = read_gru(context);
  require_shape(context, kDY, dims.y());
  require_shape(context, kDYh, dims.state());
  const DType dtype = context.input(kX).dtype;
  context.set_output(kDX, dtype, context.input(kX).shape);
  context.set_output(kDInitialH, dtype, dims.state());
  context.set_output(kDGates, dtype, dims.gates());
  context.set_output(kReset, dtype, reset_shape(dims));
  context.set_output(kHidden, dtype, dims.y());
}

void infer_gru_weight_grad(InferContext& context) {
  check_reset(context);
  const RecurrentDims dims = infer_recurrent_weight_grad(context, kGateCount, kWeightGradSequenceLens);
  require_shape(context, kWeightGradReset, reset_shape(dims));
}

/// As for LSTM, the input gradient gives what the weight gradient is made of: here the reset gates too.
void gru_gradient(GradientContext& context) {
  const bool wants_weights = context.needs(kW) || context.needs(kR) || context.needs(kBias);
  const ValueId y = context.output(0);
  std::vector<ValueId> inputs;
  for (int i = kX; i <= kInitialH; ++i) inputs.push_back(context.input(i));
  for (int i = 0; i < 2; ++i) inputs.push_back(context.output_grad(i));
  const std::vector<bool> wanted = {context.needs(kX), context.needs(kInitialH), wants_weights, wants_weights,
                                    wants_weights && !y.is_valid()};
  const auto grads = context.emit_some(OpKind::GRUInputGrad, inputs, wanted, context.attributes(), "x");
  if (context.needs(kX)) context.set_input_grad(kX, grads[kDX]);
  if (context.needs(kInitialH)) context.set_input_grad(kInitialH, grads[kDInitialH]);
  if (!wants_weights) return;

  Attributes attributes = direction_values(context);
  attributes.set("linear_before_reset", context.attributes().integer("linear_before_reset"));
  const std::vector<bool> wanted_weights = {context.needs(kW), context.needs(kR), context.needs(kBias)};
  const auto weights = context.emit_some(OpKind::GRUWeightGrad,
                                         {grads[kDGates], context.input(kX), y.is_valid() ? y : grads[kHidden],
                                          grads[kReset], context.input(kSequenceLens), context.input(kInitialH)},
                                         wanted_weights, std::move(attributes), "w");
  for (int i = kW; i <= kBias; ++i) {
    if (context.needs(i)) context.set_input_grad(i, weights[static_cast<size_t>(i - kW)]);
  }
}

OpQuantities gru_cost(const CostContext& context) {
  return {.flops = forward_flops(context, kUnitFlops)};
}
OpQuantities gru_input_grad_cost(const CostContext& context) {
  return {.flops = input_grad_flops(context, kUnitFlops)};
}
/// One more operation per hidden unit and step, with the reset gates.
OpQuantities gru_weight_grad_cost(const CostContext& context) {
  return {.flops = weight_grad_flops(context) + static_cast<double>(context.input(kWeightGradReset).shape.elements())};
}

}  // namespace

/// One GRU layer; gates in the order z, r, h:
///   z = sigmoid(x Wz + h Rz + bz)   r = sigmoid(x Wr + h Rr + br)   h' = (1 - z) g + z h
///   g = tanh(x Wh + (r h) Rh + bh), or with linear_before_reset  tanh(x Wh + Wbh + r (h Rh + Rbh))
/// where b is Wb + Rb. Beyond an item's sequence length Y is 0 and the state stays. Accumulates in double (reference)
/// or f32. 2 S B D 3H (I + H) FLOPs for the products. ONNX 22 with its default activations, without clip.
extern const OpDef GRU_def;
const OpDef GRU_def = {
    .op = OpKind::GRU,
    .min_inputs = 3,
    .max_inputs = 6,
    .min_outputs = 1,
    .max_outputs = 2,
    .attributes = with_reset(cell_attributes()),
    .infer = infer_gru,
    .gradient = gru_gradient,
    .cost = gru_cost,
    .no_gradient_inputs = {kSequenceLens},
};

/// (X, W, R, bias?, sequence_lens?, initial_h?, dY?, dY_h?) -> dX?, dinitial_h?, dGates?, reset?, Y? of GRU. Runs the
/// recurrence again rather than keep the gates. dGates (S, D, B, 3H) and the reset gates r (S, D, B, H), in either
/// layout, are 0 beyond an item's sequence length; dGates are the gradients of the gates before their activations; Y
/// is the forward's. The last three are for GRUWeightGrad.
extern const OpDef GRUInputGrad_def;
const OpDef GRUInputGrad_def = {
    .op = OpKind::GRUInputGrad,
    .min_inputs = 3,
    .max_inputs = 8,
    .min_outputs = 1,
    .max_outputs = 5,
    .attributes = with_reset(cell_attributes()),
    .infer = infer_gru_input_grad,
    .differentiable = Differentiable::no,
    .cost = gru_input_grad_cost,
};

/// (dGates, X, Y, reset, sequence_lens?, initial_h?) -> dW?, dR?, dbias? of GRU. dW is the product of dGates with X; dR
/// that with the hidden state h before each step; dbias is the sum of dGates, for both halves. For the rows of gate h,
/// dR is made with r h instead of h, or with linear_before_reset dR and the second half of dbias are made of r dGates.
extern const OpDef GRUWeightGrad_def;
const OpDef GRUWeightGrad_def = {
    .op = OpKind::GRUWeightGrad,
    .min_inputs = 4,
    .max_inputs = 6,
    .min_outputs = 1,
    .max_outputs = 3,
    .attributes = with_reset(direction_attributes()),
    .infer = infer_gru_weight_grad,
    .differentiable = Differentiable::no,
    .cost = gru_weight_grad_cost,
};

}  // namespace mpc::ops
