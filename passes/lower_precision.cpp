#include "passes/lower_precision.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "compiler/base/attention_parts.h"
#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

constexpr std::array<std::string_view, 4> kPrecisions = {"f32", "tf32", "bf16", "f16"};

// Everything that is not here computes in f32. LSTM and GRU too: their recurrence would round its state at every step.
constexpr OpKind kLow[] = {OpKind::Conv, OpKind::Gemm, OpKind::MatMul, OpKind::ScaledDotProductAttention};

// What moves elements, picks one of its operands, or maps elements one by one without the range of an exponential.
constexpr OpKind kAsOperands[] = {
    OpKind::Abs,      OpKind::Add,       OpKind::AveragePool, OpKind::Ceil,      OpKind::Celu,
    OpKind::Clip,     OpKind::Concat,    OpKind::Div,         OpKind::Dropout,   OpKind::Elu,
    OpKind::Erf,      OpKind::Expand,    OpKind::Floor,       OpKind::Gather,    OpKind::GatherElements,
    OpKind::GatherND, OpKind::Gelu,      OpKind::HardSigmoid, OpKind::HardSwish, OpKind::LeakyRelu,
    OpKind::Max,      OpKind::MaxPool,   OpKind::Min,         OpKind::Mish,      OpKind::Mul,
    OpKind::Neg,      OpKind::PRelu,     OpKind::Pad,         OpKind::Relu,      OpKind::Reshape,
    OpKind::Selu,     OpKind::Shrink,    OpKind::Sigmoid,     OpKind::Sign,      OpKind::Slice,
    OpKind::Softsign, OpKind::Split,     OpKind::Sub,         OpKind::Tanh,      OpKind::ThresholdedRelu,
    OpKind::Tile,     OpKind::Transpose, OpKind::Trilu,       OpKind::Where,
};

// What reads and writes data as it comes, computes in f32, and keeps in f32 what it has one of per channel: statistics
// that move by little would stand still.
constexpr OpKind kPerChannel[] = {OpKind::BatchNormalization, OpKind::BatchNormalizationTraining};

bool is_per_channel(OpKind op) {
  return std::ranges::find(kPerChannel, op) != std::end(kPerChannel);
}

class PrecisionLowerer {
 public:
  PrecisionLowerer(const Graph& graph, DType low) : source_(graph), rewriter_(graph), low_(low) {}

  Graph run() {
    for (int i = 0; i < source_.node_count(); ++i) lower(NodeId(i));
    for (const NamedValue& output : source_.outputs) keep_type(output.value);
    if (source_.loss.is_valid()) keep_type(source_.loss);
    return rewriter_.finish(source_.stage);
  }

 private:
  Graph& graph() { return rewriter_.graph(); }

  // What the op is to read for an f32 operand: f32 or the low type.
  DType dtype_for(const Node& node) {
    const ComputeIn where = compute_in(node.op);
    if (where == ComputeIn::low) return low_;
    if (where == ComputeIn::f32) return DType::f32;
    bool has_low = false;
    for (const ValueId input : node.inputs) {
      if (!input.is_valid()) continue;
      const Value& value = graph().value(rewriter_.at(input));
      has_low = has_low || value.dtype == low_;
      // Weights and constants follow the data; data in f32 keeps the op there.
      if (value.dtype == DType::f32 && !is_weight(value)) return DType::f32;
    }
    return has_low ? low_ : DType::f32;
  }

  static bool is_weight(const Value& value) {
    return value.kind == ValueKind::parameter || value.kind == ValueKind::constant ||
           (value.kind == ValueKind::node && value.rate == Rate::per_step);
  }

  ValueId as(DType dtype, ValueId id, const std::string& origin) {
    const Value value = graph().value(id);
    if (value.dtype == dtype) return id;
    const auto key = std::pair(id, dtype);
    if (const auto found = casts_.find(key); found != casts_.end()) return found->second;
    NodeInfo info;
    const std::string to(dtype_name(dtype));
    info.name = graph().unique_node_name(value.name + "/" + to);
    info.origin = origin;
    info.output_names = {graph().unique_value_name(value.name + "/" + to)};
    const NodeId cast = append(graph(), OpKind::Cast, {id}, {{"to", to}}, std::move(info));
    const ValueId result = graph().node(cast).outputs[0];
    graph().node(cast).rate = graph().value(result).rate = value.rate;
    casts_.emplace(key, result);
    return result;
  }

  void lower(NodeId id) {
    const Node& old = source_.node(id);
    // Only what the model computes in f32 is touched; a Cast says itself what it gives.
    const bool is_f32 = std::ranges::any_of(old.inputs, [&](ValueId input) { return has_f32(input); }) &&
                        std::ranges::all_of(old.outputs, [&](ValueId output) { return !is_other_float(output); }) &&
                        old.op != OpKind::Cast;
    if (!is_f32) {
      rewriter_.copy(id);
      return;
    }
    const DType dtype = dtype_for(old);
    std::vector<ValueId> inputs;
    for (const ValueId input : old.inputs) {
      const ValueId mapped = rewriter_.at(input);
      const bool is_cast = has_f32(input) && !stays_in_f32(old, inputs.size());
      inputs.push_back(is_cast ? as(dtype, mapped, old.origin) : mapped);
    }
    NodeInfo info;
    info.name = old.name;
    info.origin = old.origin;
    info.phase = old.phase;
    for (const ValueId output : old.outputs) {
      info.output_names.push_back(output.is_valid() ? source_.value(output).name : "");
    }
    const NodeId made = append(graph(), old.op, std::move(inputs), old.attributes, std::move(info));
    graph().node(made).rate = old.rate;
    for (size_t i = 0; i < old.outputs.size(); ++i) {
      if (!old.outputs[i].is_valid()) continue;
      const ValueId result = graph().node(made).outputs[i];
      graph().value(result).rate = source_.value(old.outputs[i]).rate;
      rewriter_.map(old.outputs[i], result);
    }
    rewriter_.map_node(id, made);
  }

  // What is added to the scores of attention, too: finite masks, which may be as low as the lowest f32, would become
  // infinite.
  bool stays_in_f32(const Node& node, size_t operand) const {
    if (is_per_channel(node.op)) return operand > 0;
    return node.op == OpKind::ScaledDotProductAttention &&
           operand >= attention_operands(source_.value(node.inputs[0]).shape);
  }

  // A result of the model has the type that the model gives it.
  void keep_type(ValueId old) {
    const ValueId mapped = rewriter_.at(old);
    const DType dtype = source_.value(old).dtype;
    if (graph().value(mapped).dtype == dtype) return;
    rewriter_.map(old, as(dtype, mapped, source_.value(old).name));
  }

  bool has_f32(ValueId id) const { return id.is_valid() && source_.value(id).dtype == DType::f32; }
  bool is_other_float(ValueId id) const {
    return id.is_valid() && is_float(source_.value(id).dtype) && source_.value(id).dtype != DType::f32;
  }

  const Graph& source_;
  Rewriter rewriter_;
  DType low_;
  std::map<std::pair<ValueId, DType>, ValueId> casts_;
};

}  // namespace

std::optional<Precision> parse_precision(std::string_view name) {
  for (size_t i = 0; i < kPrecisions.size(); ++i) {
    if (kPrecisions[i] == name) return static_cast<Precision>(i);
  }
  return std::nullopt;
}

std::string_view precision_name(Precision precision) {
  return kPrecisions[static_cast<size_t>(precision)];
}

std::vector<std::string> precision_names() {
  return {kPrecisions.begin(), kPrecisions.end()};
}

std::optional<DType> low_dtype(Precision precision) {
  if (precision == Precision::bf16) return DType::bf16;
  return precision == Precision::f16 ? std::optional(DType::f16) : std::nullopt;
}

ComputeIn compute_in(OpKind op) {
  if (std::ranges::find(kLow, op) != std::end(kLow)) return ComputeIn::low;
  const bool follows = is_per_channel(op) || std::ranges::find(kAsOperands, op) != std::end(kAsOperands);
  return follows ? ComputeIn::operands : ComputeIn::f32;
}

Graph lower_precision(const Graph& graph, DType low) {
  return PrecisionLowerer(graph, low).run();
}

}  // namespace mpc
