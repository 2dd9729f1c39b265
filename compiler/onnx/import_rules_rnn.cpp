#include <array>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "compiler/onnx/import_rules.h"

// RNN (opset 1 to 22) as the operators of its steps: one product of all steps with W, then a product with R, a sum and
// the activation for each. So it runs and is differentiated wherever MatMul, Add and the activation are, in any
// precision; what fuses sums and activations fuses these. (LSTM and GRU, of which models have long ones, are ops.)
//
// With sequence_lens a row keeps its state, and gives zeros, in the steps behind its end; backwards these are the steps
// before its first.

namespace mpc::onnx_io::rules {
namespace {

/// X (S, B, I), W (D, H, I), R (D, H, H), B (D, 2H), sequence_lens (B), initial_h (D, B, H).
enum Operand : uint8_t { kX, kW, kR, kB, kSequenceLens, kInitialH };

struct Activation {
  OpKind op;
  std::vector<std::pair<std::string_view, double>> numbers;  // attributes, in the order of activation_alpha and _beta
};

struct ActivationRow {
  std::string_view name;
  Activation activation;
};

const std::array<ActivationRow, 9>& activation_rows() {
  static const std::array<ActivationRow, 9> kRows = {
      {{"Elu", {OpKind::Elu, {{"alpha", 1.0}}}},
       {"HardSigmoid", {OpKind::HardSigmoid, {{"alpha", 0.2}, {"beta", 0.5}}}},
       {"LeakyRelu", {OpKind::LeakyRelu, {{"alpha", 0.01}}}},
       {"Relu", {OpKind::Relu, {}}},
       {"Sigmoid", {OpKind::Sigmoid, {}}},
       {"Softplus", {OpKind::Softplus, {}}},
       {"Softsign", {OpKind::Softsign, {}}},
       {"Tanh", {OpKind::Tanh, {}}},
       {"ThresholdedRelu", {OpKind::ThresholdedRelu, {{"alpha", 1.0}}}}}};
  return kRows;
}

std::string lower_case(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

/// The activation of every direction. Their numbers are given in one list for all, each taking what it has.
std::vector<Activation> read_activations(const OnnxNode& node, size_t directions) {
  std::vector<std::string> names(directions, "Tanh");
  if (node.attributes.has("activations")) names = node.attributes.texts("activations");
  if (names.size() != directions) {
    node.fail(ErrorId::M031, fmt::format("activations has {} entries, {} are needed", names.size(), directions));
  }
  const auto list = [&](std::string_view name) {
    return node.attributes.has(name) ? node.attributes.numbers(name) : std::vector<double>{};
  };
  const std::array<std::vector<double>, 2> given = {list("activation_alpha"), list("activation_beta")};
  std::array<size_t, 2> taken = {0, 0};
  std::vector<Activation> result;
  for (const std::string& name : names) {
    const ActivationRow* found = nullptr;
    for (const ActivationRow& row : activation_rows()) {
      if (lower_case(std::string(row.name)) == lower_case(name)) found = &row;
    }
    if (found == nullptr) {
      node.fail(ErrorId::M046, fmt::format("the activation {} of RNN is not supported", name),
                "Elu, HardSigmoid, LeakyRelu, Relu, Sigmoid, Softplus, Softsign, Tanh and ThresholdedRelu are");
    }
    result.push_back(found->activation);
    for (size_t i = 0; i < result.back().numbers.size(); ++i) {
      if (taken[i] < given[i].size()) result.back().numbers[i].second = given[i][taken[i]++];
    }
  }
  return result;
}

class Unroller {
 public:
  Unroller(Importer& importer, const OnnxNode& node) : importer_(importer), node_(node) {
    const std::string direction = node.text("direction", "forward");
    if (direction != "forward" && direction != "reverse" && direction != "bidirectional")
      node.fail(ErrorId::M031, fmt::format("direction is '{}', must be forward, reverse or bidirectional", direction));
    is_reverse_ = direction == "reverse";
    directions_ = direction == "bidirectional" ? 2 : 1;
    const int64_t layout = node.integer("layout", 0);
    if (layout != 0 && layout != 1) node.fail(ErrorId::M031, fmt::format("layout is {}, must be 0 or 1", layout));
    is_batch_first_ = layout == 1;
    clip_ = node.number("clip", 0);
    activations_ = read_activations(node, static_cast<size_t>(directions_));
    read_shapes();
  }

  void run() {
    std::vector<Slot> all, last;  // (S, 1, B, H), (1, B, H) of each direction
    for (int64_t d = 0; d < directions_; ++d) {
      const auto [states, state] = run_direction(d);
      all.push_back(states);
      last.push_back(state);
    }
    if (node_.has_output(0)) importer_.bind(node_, 0, arranged(joined(all, 1, "Y"), {2, 0, 1, 3}, "Y_layout"));
    if (node_.has_output(1)) importer_.bind(node_, 1, arranged(joined(last, 0, "Y_h"), {1, 0, 2}, "Y_h_layout"));
  }

 private:
  void read_shapes() {
    for (const Operand operand : {kX, kW, kR}) {
      if (!node_.has_input(operand))
        node_.fail(ErrorId::M022, fmt::format("input {} is required", static_cast<int>(operand)));
      const TensorType& type = importer_.type(node_.inputs[operand]);
      if (type.shape.rank() != 3) {
        node_.fail(ErrorId::M032, fmt::format("input {} has shape {}, rank 3 is needed", static_cast<int>(operand),
                                              to_string(type.shape)));
      }
      if (!is_float(type.dtype) || type.dtype != importer_.type(node_.inputs[kX]).dtype)
        node_.fail(ErrorId::M030, fmt::format("input {} is {}, the float type of X is needed",
                                              static_cast<int>(operand), dtype_name(type.dtype)));
    }
    const Shape& x = importer_.type(node_.inputs[kX]).shape;
    steps_ = x[is_batch_first_ ? 1 : 0];
    batch_ = x[is_batch_first_ ? 0 : 1];
    inputs_ = x[2];
    hidden_ = importer_.type(node_.inputs[kR]).shape[2];
    if (steps_ < 1) node_.fail(ErrorId::M032, "X has no steps");
    require_shape(kW, {directions_, hidden_, inputs_});
    require_shape(kR, {directions_, hidden_, hidden_});
    require_shape(kB, {directions_, 2 * hidden_});
    require_shape(kSequenceLens, {batch_});
    require_shape(kInitialH,
                  is_batch_first_ ? Shape{batch_, directions_, hidden_} : Shape{directions_, batch_, hidden_});
    const int64_t stated = node_.integer("hidden_size", hidden_);
    if (stated != hidden_) node_.fail(ErrorId::M032, fmt::format("hidden_size is {}, R is for {}", stated, hidden_));
  }

  void require_shape(Operand operand, const Shape& shape) {
    if (!node_.has_input(operand)) return;
    const Shape& found = importer_.type(node_.inputs[operand]).shape;
    if (found == shape) return;
    node_.fail(ErrorId::M032, fmt::format("input {} has shape {}, {} is needed", static_cast<int>(operand),
                                          to_string(found), to_string(shape)));
  }

  Slot emit(OpKind op, const std::vector<Slot>& inputs, Attributes attributes, const std::string& suffix) {
    return importer_.emit(node_, op, inputs, std::move(attributes), scope_ + suffix);
  }
  Slot reshape(Slot slot, const std::vector<int64_t>& shape, const std::string& suffix) {
    return importer_.reshape(node_, slot, shape, scope_ + suffix);
  }
  Slot transposed(Slot slot, const std::vector<int64_t>& order, const std::string& suffix) {
    return emit(OpKind::Transpose, {slot}, {{"perm", order}}, suffix);
  }
  Slot joined(const std::vector<Slot>& parts, int64_t axis, const std::string& suffix) {
    return parts.size() == 1 ? parts[0] : emit(OpKind::Concat, parts, {{"axis", axis}}, suffix);
  }
  Slot arranged(Slot slot, const std::vector<int64_t>& order, const std::string& suffix) {
    return is_batch_first_ ? transposed(slot, order, suffix) : slot;
  }

  /// Part d of `count` along the first axis, without that axis.
  Slot of_direction(Slot slot, int64_t d, const std::string& suffix) {
    Slot part = slot;
    std::vector<int64_t> shape = importer_.type(slot).shape.to_vector();
    if (directions_ > 1) {
      using Numbers = std::vector<int64_t>;
      part = emit(OpKind::Slice, {slot},
                  {{"starts", Numbers{d}}, {"ends", Numbers{d + 1}}, {"axes", Numbers{0}}, {"steps", Numbers{1}}},
                  suffix + "_part");
    }
    shape.erase(shape.begin());
    return reshape(part, shape, suffix);
  }

  /// X W^T + Wb + Rb of every step: (B, H) each.
  std::vector<Slot> inputs_of_steps(int64_t d) {
    const Slot x = is_batch_first_ ? transposed(node_.inputs[kX], {1, 0, 2}, "X") : node_.inputs[kX];
    const Slot w = transposed(of_direction(node_.inputs[kW], d, "W"), {1, 0}, "W_transposed");
    Slot all = emit(OpKind::MatMul, {x, w}, {}, "XW");
    if (node_.has_input(kB)) {
      const Slot halves = reshape(of_direction(node_.inputs[kB], d, "B"), {2, hidden_}, "B_halves");
      const Attributes over_halves = {{"axes", std::vector<int64_t>{0}}, {"keepdims", int64_t{0}}};
      all = emit(OpKind::Add, {all, emit(OpKind::ReduceSum, {halves}, over_halves, "bias")}, {}, "XW_bias");
    }
    std::vector<Slot> parts = {all};
    if (steps_ > 1) {
      const std::vector<int64_t> ones(static_cast<size_t>(steps_), 1);
      parts = importer_.emit_parts(node_, OpKind::Split, {all}, {{"axis", int64_t{0}}, {"split", ones}},
                                   scope_ + "steps", steps_);
    }
    for (size_t t = 0; t < parts.size(); ++t) parts[t] = reshape(parts[t], {batch_, hidden_}, fmt::format("x{}", t));
    return parts;
  }

  Slot activated(Slot sum, int64_t d, const std::string& step) {
    if (clip_ > 0) sum = emit(OpKind::Clip, {sum}, {{"min", -clip_}, {"max", clip_}}, step + "_clipped");
    const Activation& activation = activations_[static_cast<size_t>(d)];
    Attributes attributes;
    for (const auto& [name, number] : activation.numbers) attributes.set(name, number);
    return emit(activation.op, {sum}, std::move(attributes), step);
  }

  /// Of each row of the batch: is step t before its end?
  Slot is_within(int64_t t, const std::string& step) {
    const Slot lengths = node_.inputs[kSequenceLens];
    const Slot at = importer_.scalar_like(lengths, static_cast<double>(t), fmt::format("{}/{}", node_.name, step));
    return reshape(emit(OpKind::Less, {at, lengths}, {}, step + "_within"), {batch_, 1}, step + "_mask");
  }

  std::pair<Slot, Slot> run_direction(int64_t d) {
    scope_ = directions_ == 1 ? "" : d == 0 ? "forward/" : "backward/";
    const std::vector<Slot> x = inputs_of_steps(d);
    const Slot r = transposed(of_direction(node_.inputs[kR], d, "R"), {1, 0}, "R_transposed");
    const bool is_backward = is_reverse_ || d == 1;
    const Slot zero = importer_.scalar_like(x[0], 0, node_.name + "/zero");
    Slot h = kAbsent;
    if (node_.has_input(kInitialH)) {
      h = of_direction(arranged(node_.inputs[kInitialH], {1, 0, 2}, "initial_h_layout"), d, "initial_h");
    }
    std::vector<Slot> states(x.size());
    for (int64_t i = 0; i < steps_; ++i) {
      const int64_t t = is_backward ? steps_ - 1 - i : i;
      const std::string step = fmt::format("h{}", t);
      Slot sum = x[static_cast<size_t>(t)];
      if (h != kAbsent)
        sum = emit(OpKind::Add, {sum, emit(OpKind::MatMul, {h, r}, {}, step + "_R")}, {}, step + "_sum");
      Slot next = activated(sum, d, step);
      Slot given = next;
      if (node_.has_input(kSequenceLens)) {
        const Slot within = is_within(t, step);
        given = emit(OpKind::Where, {within, next, zero}, {}, step + "_given");
        next = h == kAbsent ? given : emit(OpKind::Where, {within, next, h}, {}, step + "_kept");
      }
      h = next;
      states[static_cast<size_t>(t)] = reshape(given, {1, 1, batch_, hidden_}, step + "_row");
    }
    const std::pair<Slot, Slot> result = {joined(states, 0, "states"), reshape(h, {1, batch_, hidden_}, "last")};
    scope_ = "";
    return result;
  }

  Importer& importer_;
  const OnnxNode& node_;
  std::string scope_;  // of the names of a direction
  bool is_reverse_ = false;
  bool is_batch_first_ = false;
  double clip_ = 0;
  std::vector<Activation> activations_;
  int64_t directions_ = 1, steps_ = 0, batch_ = 0, inputs_ = 0, hidden_ = 0;
};

}  // namespace

void rnn(Importer& importer, OnnxNode& node) {
  Unroller(importer, node).run();
}

}  // namespace mpc::onnx_io::rules
