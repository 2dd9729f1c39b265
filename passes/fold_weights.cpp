#include "passes/fold_weights.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compiler/ir/rewriter.h"

namespace mpc {
namespace {

/// A value that is made of parameters alone.
struct Made {
  WeightRecipe recipe;
  bool is_reshaped = false;  // then nothing but a Cast may follow
};

class WeightFolder {
 public:
  explicit WeightFolder(const Graph& graph) : graph_(graph), made_(static_cast<size_t>(graph.value_count())) {}

  Graph run() {
    for (int i = 0; i < graph_.value_count(); ++i) {
      if (graph_.value(ValueId(i)).kind == ValueKind::parameter) made_[static_cast<size_t>(i)] = parameter(ValueId(i));
    }
    std::vector<bool> is_result(made_.size());
    for (const NamedValue& output : graph_.outputs) is_result[output.value.index()] = true;
    std::vector<bool> is_folded(static_cast<size_t>(graph_.node_count()));
    for (int i = 0; i < graph_.node_count(); ++i) {
      const Node& node = graph_.node(NodeId(i));
      if (std::ranges::any_of(node.outputs, [&](ValueId id) { return id.is_valid() && is_result[id.index()]; }))
        continue;
      is_folded[static_cast<size_t>(i)] = fold(node);
    }
    Rewriter rewriter(graph_);
    for (int i = 0; i < graph_.node_count(); ++i) {
      if (is_folded[static_cast<size_t>(i)]) continue;
      for (const ValueId input : graph_.node(NodeId(i)).inputs) add_parameter(input, rewriter);
      rewriter.copy(NodeId(i));
    }
    return rewriter.finish(graph_.stage);
  }

 private:
  std::optional<Made> parameter(ValueId id) const {
    const Value& value = graph_.value(id);
    if (value.recipe.is_empty()) return Made{{{{value.source, value.shape, {}}}, 0, {}, {}}, false};
    return std::nullopt;
  }

  /// @return whether all that the node makes is made of parameters from now on.
  bool fold(const Node& node) {
    if (node.inputs.empty() || node.phase != Phase::forward) return false;
    std::vector<Made> operands;
    for (const ValueId input : node.inputs) {
      if (!input.is_valid() || !made_[input.index()]) return false;
      operands.push_back(*made_[input.index()]);
    }
    if (node.op == OpKind::Transfer) {  // every device reads the model
      for (size_t i = 0; i < node.outputs.size(); ++i) made_[node.outputs[i].index()] = operands[i];
      return true;
    }
    if (node.outputs.size() != 1) return false;
    std::optional<Made>& result = made_[node.outputs[0].index()];
    result = apply(node, std::move(operands));
    if (result && !node.origin.empty()) result->recipe.origins.push_back(node.origin);
    return result.has_value();
  }

  std::optional<Made> apply(const Node& node, std::vector<Made> operands) const {
    Made made = std::move(operands.front());
    switch (node.op) {
      case OpKind::Cast: {
        const DType to = graph_.value(node.outputs[0]).dtype;
        const bool is_rounding = operands.size() == 1 && graph_.value(node.inputs[0]).dtype == DType::f32 &&
                                 (to == DType::f16 || to == DType::bf16);
        return is_rounding ? std::optional(std::move(made)) : std::nullopt;
      }
      case OpKind::Reshape:
        if (operands.size() != 1) return std::nullopt;
        made.is_reshaped = true;
        return made;
      case OpKind::Transpose: {
        const bool is_alone = made.recipe.parts.size() == 1;
        std::vector<int64_t>& perm = is_alone ? made.recipe.parts.front().perm : made.recipe.perm;
        if (made.is_reshaped || !perm.empty()) return std::nullopt;
        perm = node.attributes.integers("perm");
        return made;
      }
      case OpKind::Concat:
        for (size_t i = 0; i < operands.size(); ++i) {
          const Made& part = i == 0 ? made : operands[i];
          if (part.is_reshaped || part.recipe.parts.size() != 1) return std::nullopt;
          if (i == 0) continue;
          made.recipe.parts.push_back(part.recipe.parts.front());
          std::ranges::copy(part.recipe.origins, std::back_inserter(made.recipe.origins));
        }
        made.recipe.axis = node.attributes.integer("axis");
        return made;
      default:
        return std::nullopt;
    }
  }

  // Values that stand for the same parameter in the same form, as on several devices, are one.
  void add_parameter(ValueId id, Rewriter& rewriter) {
    if (!id.is_valid() || rewriter.is_mapped(id) || !made_[id.index()]) return;
    const Value& value = graph_.value(id);
    if (value.kind == ValueKind::parameter) return;
    const WeightRecipe& recipe = made_[id.index()]->recipe;
    auto& known = known_[recipe.parts.front().source];
    for (const auto& [other, parameter] : known) {
      const Value& same = rewriter.graph().value(parameter);
      if (same.dtype == value.dtype && same.shape == value.shape && made_[other.index()]->recipe == recipe)
        return rewriter.map(id, parameter);
    }
    const ValueId parameter =
        rewriter.graph().add_parameter(value.name, value.dtype, value.shape, recipe.parts.front().source, false);
    const bool is_plain = recipe.parts.size() == 1 && recipe.parts.front().perm.empty() && recipe.perm.empty() &&
                          recipe.parts.front().shape == value.shape && recipe.origins.empty();
    if (!is_plain) rewriter.graph().value(parameter).recipe = recipe;
    known.emplace_back(id, parameter);
    rewriter.map(id, parameter);
  }

  const Graph& graph_;
  std::vector<std::optional<Made>> made_;  // [value]
  /// By the first source: of what was folded, and the parameter that stands for it.
  std::map<std::string, std::vector<std::pair<ValueId, ValueId>>> known_;
};

}  // namespace

bool may_fold(OpKind op) {
  return op == OpKind::Cast || op == OpKind::Concat || op == OpKind::Transpose || op == OpKind::Reshape;
}

Graph fold_weights(const Graph& graph) {
  return WeightFolder(graph).run();
}

}  // namespace mpc
