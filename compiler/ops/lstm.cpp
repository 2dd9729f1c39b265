#include <array>

#include "compiler/ops/recurrent.h"

// LSTM (ONNX 22) and its gradients. Beside what all cells have (recurrent.h), with gates i, o, f, c:
//   initial_c, Y_c as initial_h and Y_h   P (D, 3H)

namespace mpc::ops {
namespace {

// Operands of LSTM and, at the same positions, of LSTMInputGrad, which takes the gradients of the outputs after them.
enum LstmInput : int { kInitialC = kInitialH + 1, kP, kDY, kDYh, kDYc };
enum LstmInputGradOutput : int { kDX, kDInitialH, kDInitialC, kDP, kDGates, kHidden };

constexpr int64_t kGateCount = 4;
constexpr std::array<std::string_view, 3> kActivations = {"Sigmoid", "Tanh", "Tanh"};
constexpr int kWeightGradSequenceLens = 3;
/// Three sigmoids, two tanh and four more operations per hidden unit and step.
constexpr double kUnitFlops = 9.0;

std::vector<AttributeSpec> lstm_attributes() {
  std::vector<AttributeSpec> attributes = cell_attributes();
  attributes.push_back({"input_forget", AttributeType::integer, int64_t{0}});
  return attributes;
}

RecurrentDims read_lstm(InferContext& context) {
  const RecurrentDims dims = read_cell(context, kGateCount, kActivations);
  if (context.attributes().integer("input_forget") != 0) context.fail(ErrorId::M046, "input_forget is not supported");
  require_shape(context, kInitialC, dims.state());
  require_shape(context, kP, Shape{dims.directions, 3 * dims.hidden});
  return dims;
}

void infer_lstm(InferContext& context) {
  const RecurrentDims dims = read_lstm(context);
  const DType dtype = context.input(kX).dtype;
  context.set_output(0, dtype, dims.y());
  context.set_output(1, dtype, dims.state());
  context.set_output(2, dtype, dims.state());
}

void infer_lstm_input_grad(InferContext& context) {
  const RecurrentDims dims = read_lstm(context);
  require_shape(context, kDY, dims.y());
  require_shape(context, kDYh, dims.state());
  require_shape(context, kDYc, dims.state());
  const DType dtype = context.input(kX).dtype;
  context.set_output(kDX, dtype, context.input(kX).shape);
  context.set_output(kDInitialH, dtype, dims.state());
  context.set_output(kDInitialC, dtype, dims.state());
  context.set_output(kDP, dtype, Shape{dims.directions, 3 * dims.hidden});
  context.set_output(kDGates, dtype, dims.gates());
  context.set_output(kHidden, dtype, dims.y());
}

void infer_lstm_weight_grad(InferContext& context) {
  infer_recurrent_weight_grad(context, kGateCount, kWeightGradSequenceLens);
}

/// The input gradient also gives the gradients of the gates, of which the weight gradient is made without running the
/// recurrence again; and the hidden states, where the LSTM did not give its output Y.
void lstm_gradient(GradientContext& context) {
  const bool wants_weights = context.needs(kW) || context.needs(kR) || context.needs(kBias);
  const ValueId y = context.output(0);
  std::vector<ValueId> inputs;
  for (int i = kX; i <= kP; ++i) inputs.push_back(context.input(i));
  for (int i = 0; i < 3; ++i) inputs.push_back(context.output_grad(i));
  const std::vector<bool> wanted = {
      context.needs(kX), context.needs(kInitialH),      context.needs(kInitialC), context.needs(kP),
      wants_weights,     wants_weights && !y.is_valid()};
  const auto grads = context.emit_some(OpKind::LSTMInputGrad, inputs, wanted, context.attributes(), "x");
  if (context.needs(kX)) context.set_input_grad(kX, grads[kDX]);
  if (context.needs(kInitialH)) context.set_input_grad(kInitialH, grads[kDInitialH]);
  if (context.needs(kInitialC)) context.set_input_grad(kInitialC, grads[kDInitialC]);
  if (context.needs(kP)) context.set_input_grad(kP, grads[kDP]);
  if (!wants_weights) return;

  const std::vector<bool> wanted_weights = {context.needs(kW), context.needs(kR), context.needs(kBias)};
  const auto weights = context.emit_some(OpKind::LSTMWeightGrad,
                                         {grads[kDGates], context.input(kX), y.is_valid() ? y : grads[kHidden],
                                          context.input(kSequenceLens), context.input(kInitialH)},
                                         wanted_weights, direction_values(context), "w");
  for (int i = kW; i <= kBias; ++i) {
    if (context.needs(i)) context.set_input_grad(i, weights[static_cast<size_t>(i - kW)]);
  }
}

OpQuantities lstm_cost(const CostContext& context) {
  return {.flops = forward_flops(context, kUnitFlops)};
}
OpQuantities lstm_input_grad_cost(const CostContext& context) {
  return {.flops = input_grad_flops(context, kUnitFlops)};
}
OpQuantities lstm_weight_grad_cost(const CostContext& context) {
  return {.flops = weight_grad_flops(context)};
}

}  // namespace

/// One LSTM layer; gates in the order i, o, f, c:
///   i = sigmoid(x Wi + h Ri + bi + Pi c)   f = sigmoid(x Wf + h Rf + bf + Pf c)   g = tanh(x Wc + h Rc + bc)
///   c' = f c + i g                          o = sigmoid(x Wo + h Ro + bo + Po c')   h' = o tanh(c')
/// Beyond an item's sequence length Y is 0 and the states stay. Accumulates in double (reference) or f32.
/// 2 S B D 4H (I + H) FLOPs for the products. ONNX 22 with its default activations, without clip and input_forget.
extern const OpDef LSTM_def;
const OpDef LSTM_def = {
    .op = OpKind::LSTM,
    .min_inputs = 3,
    .max_inputs = 8,
    .min_outputs = 1,
    .max_outputs = 3,
    .attributes = lstm_attributes(),
    .infer = infer_lstm,
    .gradient = lstm_gradient,
    .cost = lstm_cost,
    .no_gradient_inputs = {kSequenceLens},
};

/// (X, W, R, bias?, sequence_lens?, initial_h?, initial_c?, P?, dY?, dY_h?, dY_c?) -> dX?, dinitial_h?, dinitial_c?,
/// dP?, dGates?, Y? of LSTM. Runs the recurrence again rather than keep the gates. dGates (S, D, B, 4H), in either
/// layout, are the gradients of the gates before their activations (0 beyond an item's sequence length); Y is the
/// forward's, for LSTMWeightGrad.
extern const OpDef LSTMInputGrad_def;
const OpDef LSTMInputGrad_def = {
    .op = OpKind::LSTMInputGrad,
    .min_inputs = 3,
    .max_inputs = 11,
    .min_outputs = 1,
    .max_outputs = 6,
    .attributes = lstm_attributes(),
    .infer = infer_lstm_input_grad,
    .differentiable = Differentiable::no,
    .cost = lstm_input_grad_cost,
};

/// (dGates, X, Y, sequence_lens?, initial_h?) -> dW?, dR?, dbias? of LSTM: products of dGates with X and with the
/// hidden state before each step, and its sum (the same for both halves of the bias).
extern const OpDef LSTMWeightGrad_def;
const OpDef LSTMWeightGrad_def = {
    .op = OpKind::LSTMWeightGrad,
    .min_inputs = 3,
    .max_inputs = 5,
    .min_outputs = 1,
    .max_outputs = 3,
    .attributes = direction_attributes(),
    .infer = infer_lstm_weight_grad,
    .differentiable = Differentiable::no,
    .cost = lstm_weight_grad_cost,
};

}  // namespace mpc::ops
