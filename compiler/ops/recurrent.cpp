#include <fmt/format.h>

#include "compiler/base/checked.h"
#include "compiler/ops/gradient.h"
#include "compiler/ops/op_def.h"

// LSTM (ONNX 22) and its gradients, with S steps, batch B, I inputs, H hidden units and D directions:
//   X (S, B, I)   W (D, 4H, I)   R (D, 4H, H)   bias (D, 8H)   sequence_lens (B) i32   initial_h, initial_c (D, B, H)
//   P (D, 3H) Y (S, D, B, H)   Y_h, Y_c (D, B, H)
// With layout 1: X (B, S, I), Y (B, S, D, H), and initial_h, initial_c, Y_h, Y_c (B, D, H).

namespace mpc::ops {
namespace {

// Operands of LSTM and, at the same positions, of LSTMInputGrad, which takes the gradients of the outputs after them.
enum LstmInput : int { kX, kW, kR, kBias, kSequenceLens, kInitialH, kInitialC, kP, kDY, kDYh, kDYc };
enum LstmInputGradOutput : int { kDX, kDInitialH, kDInitialC, kDP, kDGates, kHidden };

struct LstmDims {
  int64_t steps = 0;
  int64_t batch = 0;
  int64_t inputs = 0;
  int64_t hidden = 0;
  int64_t directions = 0;
  bool is_batch_first = false;

  Shape gates() const { return {steps, directions, batch, 4 * hidden}; }
  Shape y() const {
    return is_batch_first ? Shape{batch, steps, directions, hidden} : Shape{steps, directions, batch, hidden};
  }
  Shape state() const { return is_batch_first ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden}; }
};

std::vector<AttributeSpec> direction_attributes() {
  return {{"direction", AttributeType::text, std::string("forward")},
          {"hidden_size", AttributeType::integer, {}, true},
          {"layout", AttributeType::integer, int64_t{0}}};
}

std::vector<AttributeSpec> lstm_attributes() {
  std::vector<AttributeSpec> attributes = direction_attributes();
  attributes.push_back({"activation_alpha", AttributeType::numbers, {}, true});
  attributes.push_back({"activation_beta", AttributeType::numbers, {}, true});
  attributes.push_back({"activations", AttributeType::texts, {}, true});
  attributes.push_back({"clip", AttributeType::number, {}, true});
  attributes.push_back({"input_forget", AttributeType::integer, int64_t{0}});
  return attributes;
}

int64_t direction_count(const InferContext& context) {
  const std::string& direction = context.attributes().text("direction");
  if (direction == "forward" || direction == "reverse") return 1;
  if (direction == "bidirectional") return 2;
  context.fail(ErrorId::M031, fmt::format("direction '{}' is not known", escaped(direction, 40)),
               "use forward, reverse or bidirectional");
}

/// Leaves only the form mpc has kernels for: sigmoid, tanh, tanh; no clip; forget gate of its own.
void canonicalize_activations(InferContext& context, int64_t directions) {
  const Attributes& attributes = context.attributes();
  if (attributes.has("activations")) {
    const auto& names = attributes.texts("activations");
    bool is_default = names.empty() || static_cast<int64_t>(names.size()) == 3 * directions;
    for (size_t i = 0; is_default && i < names.size(); ++i) {
      is_default =
          i % 3 == 0 ? names[i] == "Sigmoid" || names[i] == "sigmoid" : names[i] == "Tanh" || names[i] == "tanh";
    }
    if (!is_default) context.fail(ErrorId::M046, "only the activations Sigmoid, Tanh, Tanh are supported");
  }
  for (const std::string_view name : {"activation_alpha", "activation_beta"}) {
    if (attributes.has(name) && !attributes.numbers(name).empty())
      context.fail(ErrorId::M046, fmt::format("{} is not supported", name));
    context.erase_attribute(name);
  }
  if (attributes.has("clip")) context.fail(ErrorId::M046, "clip is not supported");
  if (attributes.integer("input_forget") != 0) context.fail(ErrorId::M046, "input_forget is not supported");
  context.erase_attribute("activations");
}

void require_shape(const InferContext& context, int i, const Shape& shape) {
  if (!context.has_input(i) || context.input(i).shape == shape) return;
  context.fail(ErrorId::M032, fmt::format("input {} has shape {}, {} is needed", i, to_string(context.input(i).shape),
                                          to_string(shape)));
}

bool read_layout(const InferContext& context) {
  const int64_t layout = context.attributes().integer("layout");
  if (layout != 0 && layout != 1) context.fail(ErrorId::M031, fmt::format("layout is {}, must be 0 or 1", layout));
  return layout == 1;
}

void check_hidden_size(InferContext& context, int64_t hidden) {
  if (context.attributes().has("hidden_size") && context.attributes().integer("hidden_size") != hidden) {
    context.fail(ErrorId::M031, fmt::format("hidden_size is {}, the operands have {}",
                                            context.attributes().integer("hidden_size"), hidden));
  }
  context.set_attribute("hidden_size", hidden);
}

/// 8 H. Without hidden units there would be steps without end over nothing.
int64_t checked_bias_rows(const InferContext& context, int64_t hidden) {
  const auto rows = checked_mul(8, hidden);
  if (hidden < 1 || !rows)
    context.fail(ErrorId::M032, fmt::format("there are {} hidden units, 1 or more are needed", hidden));
  return *rows;
}

/// Checks all forward operands and makes the attributes canonical.
LstmDims read_lstm(InferContext& context) {
  LstmDims dims;
  dims.directions = direction_count(context);
  dims.is_batch_first = read_layout(context);
  canonicalize_activations(context, dims.directions);
  context.require_float(kX);
  for (int i = kW; i < context.input_count(); ++i) {
    if (context.has_input(i) && i != kSequenceLens) context.require_same_dtype(kX, i);
  }
  for (const int i : {kX, kW, kR}) context.require_rank(i, 3);
  const Shape& x = context.input(kX).shape;
  dims.steps = x[dims.is_batch_first ? 1 : 0];
  dims.batch = x[dims.is_batch_first ? 0 : 1];
  dims.inputs = x[2];
  dims.hidden = context.input(kR).shape[2];
  const int64_t bias_rows = checked_bias_rows(context, dims.hidden);
  require_shape(context, kW, Shape{dims.directions, 4 * dims.hidden, dims.inputs});
  require_shape(context, kR, Shape{dims.directions, 4 * dims.hidden, dims.hidden});
  require_shape(context, kBias, Shape{dims.directions, bias_rows});
  require_shape(context, kSequenceLens, Shape{dims.batch});
  if (context.has_input(kSequenceLens) && context.input(kSequenceLens).dtype != DType::i32) {
    context.fail(ErrorId::M030,
                 fmt::format("sequence_lens is {}, i32 is needed", dtype_name(context.input(kSequenceLens).dtype)));
  }
  require_shape(context, kInitialH, dims.state());
  require_shape(context, kInitialC, dims.state());
  require_shape(context, kP, Shape{dims.directions, 3 * dims.hidden});
  check_hidden_size(context, dims.hidden);
  return dims;
}

void infer_lstm(InferContext& context) {
  const LstmDims dims = read_lstm(context);
  const DType dtype = context.input(kX).dtype;
  context.set_output(0, dtype, dims.y());
  context.set_output(1, dtype, dims.state());
  context.set_output(2, dtype, dims.state());
}

void infer_lstm_input_grad(InferContext& context) {
  const LstmDims dims = read_lstm(context);
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
  LstmDims dims;
  dims.directions = direction_count(context);
  dims.is_batch_first = read_layout(context);
  context.require_float(0);
  context.require_same_dtype(0, 1);
  context.require_same_dtype(0, 2);
  context.require_rank(1, 3);
  context.require_rank(2, 4);
  const DType dtype = context.input(0).dtype;
  const Shape& x = context.input(1).shape;
  dims.steps = x[dims.is_batch_first ? 1 : 0];
  dims.batch = x[dims.is_batch_first ? 0 : 1];
  dims.inputs = x[2];
  dims.hidden = context.input(2).shape[3];
  const int64_t bias_rows = checked_bias_rows(context, dims.hidden);
  require_shape(context, 0, dims.gates());
  require_shape(context, 2, dims.y());
  require_shape(context, 3, Shape{dims.batch});
  if (context.has_input(3) && context.input(3).dtype != DType::i32) {
    context.fail(ErrorId::M030, fmt::format("sequence_lens is {}, i32 is needed", dtype_name(context.input(3).dtype)));
  }
  require_shape(context, 4, dims.state());
  if (context.has_input(4)) context.require_same_dtype(0, 4);
  check_hidden_size(context, dims.hidden);
  context.set_output(0, dtype, Shape{dims.directions, 4 * dims.hidden, dims.inputs});
  context.set_output(1, dtype, Shape{dims.directions, 4 * dims.hidden, dims.hidden});
  context.set_output(2, dtype, Shape{dims.directions, bias_rows});
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

  const Attributes attributes = {{"direction", context.attributes().text("direction")},
                                 {"hidden_size", context.attributes().integer("hidden_size")},
                                 {"layout", context.attributes().integer("layout")}};
  const std::vector<bool> wanted_weights = {context.needs(kW), context.needs(kR), context.needs(kBias)};
  const auto weights = context.emit_some(OpKind::LSTMWeightGrad,
                                         {grads[kDGates], context.input(kX), y.is_valid() ? y : grads[kHidden],
                                          context.input(kSequenceLens), context.input(kInitialH)},
                                         wanted_weights, attributes, "w");
  for (int i = kW; i <= kBias; ++i) {
    if (context.needs(i)) context.set_input_grad(i, weights[static_cast<size_t>(i - kW)]);
  }
}

/// 2 S B (elements of W and R) for the products; three sigmoids, two tanh and four more operations per hidden unit and
/// step.
double forward_flops(const Shape& x, const Shape& w, const Shape& r) {
  const double rows = static_cast<double>(x.elements(0, 2));
  return 2.0 * rows * (static_cast<double>(w.elements()) + static_cast<double>(r.elements())) +
         9.0 * rows * static_cast<double>(r[0]) * static_cast<double>(r[2]);
}

OpQuantities lstm_cost(const CostContext& context) {
  return {.flops = forward_flops(context.input(kX).shape, context.input(kW).shape, context.input(kR).shape)};
}
/// The recurrence again, and as many operations backwards.
OpQuantities lstm_input_grad_cost(const CostContext& context) {
  return {.flops = 2.0 * forward_flops(context.input(kX).shape, context.input(kW).shape, context.input(kR).shape)};
}
/// 2 S B D 4H (I + H) for the products, S B D 4H for the bias.
OpQuantities lstm_weight_grad_cost(const CostContext& context) {
  const double columns =
      static_cast<double>(context.input(1).shape[2]) + static_cast<double>(context.input(2).shape[3]);
  return {.flops = static_cast<double>(context.input(0).shape.elements()) * (2.0 * columns + 1.0)};
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
