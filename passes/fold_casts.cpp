#include "passes/fold_casts.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

/// How a normalization takes part.
struct Normalization {
  OpKind op;
  size_t rounded_at;    // the output that is the first one in 16 bits; 0: none
  bool reads_narrow;    // dy, operand 0, may be of 16 bits
  bool has_widened_to;  // then its results need `to`, to stay f32
};

constexpr Normalization kNormalizations[] = {
    {OpKind::LayerNormalization, 3, false, false},         {OpKind::RMSNormalization, 1, false, false},
    {OpKind::LayerNormalizationGrad, 1, true, false},      {OpKind::RMSNormalizationGrad, 1, true, false},
    {OpKind::LayerNormalizationWeightGrad, 0, true, true}, {OpKind::RMSNormalizationWeightGrad, 0, true, true},
};

const Normalization* normalization(OpKind op) {
  const auto found = std::ranges::find(kNormalizations, op, &Normalization::op);
  return found == std::end(kNormalizations) ? nullptr : found;
}

bool is_half(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f16;
}

class Folder {
 public:
  explicit Folder(const Graph& graph) : graph_(graph), users_(users_of(graph)), rewriter_(graph) {
    is_folded_.assign(static_cast<size_t>(graph.node_count()), false);
    is_result_.assign(static_cast<size_t>(graph.value_count()), false);
    for (const NamedValue& output : graph.outputs) is_result_[output.value.index()] = true;
    if (graph.loss.is_valid()) is_result_[graph.loss.index()] = true;
    for (const Update& update : graph.updates) is_result_[update.next.index()] = true;
    for (const ParameterGradient& gradient : graph.gradients) is_result_[gradient.gradient.index()] = true;
  }

  Graph run() {
    for (int i = 0; i < graph_.node_count(); ++i) find(NodeId(i));
    for (int i = 0; i < graph_.node_count(); ++i) {
      const NodeId id(i);
      if (cast_of_.contains(id) || reads_narrow(id)) {
        write(id);
      } else if (!is_folded_[id.index()]) {
        rewriter_.copy(id);
      }
    }
    return rewriter_.finish(graph_.stage);
  }

 private:
  void find(NodeId id) {
    const Node& cast = graph_.node(id);
    if (cast.op != OpKind::Cast || cast.inputs.size() != 1) return;
    const DType from = graph_.value(cast.inputs[0]).dtype;
    const DType to = graph_.value(cast.outputs[0]).dtype;
    if (from == DType::f32 && is_half(to)) find_rounding(id);
    if (is_half(from) && to == DType::f32) find_widening(id);
  }

  // Does the Cast become a result of what it reads?
  void find_rounding(NodeId id) {
    const Node& cast = graph_.node(id);
    if (graph_.value(cast.inputs[0]).kind != ValueKind::node) return;
    const NodeId maker = graph_.value(cast.inputs[0]).producer;
    const Node& node = graph_.node(maker);
    const Normalization* kind = normalization(node.op);
    if (kind == nullptr || kind->rounded_at == 0 || node.outputs[0] != cast.inputs[0] || cast_of_.contains(maker))
      return;
    const bool is_alike = node.device == cast.device && node.phase == cast.phase && node.rate == cast.rate;
    // Its result would be held from the normalization on: no other work of the micro-batch may stand between.
    const bool is_next = std::ranges::none_of(
        graph_.nodes().subspan(maker.index() + 1, id.index() - maker.index() - 1), [&](const Node& other) {
          return other.device == node.device && other.phase == node.phase && other.rate == node.rate;
        });
    if (!is_alike || !is_next) return;
    cast_of_[maker] = id;
    is_folded_[id.index()] = true;
  }

  // Do gradients of normalizations alone read what the Cast gives, on its device?
  void find_widening(NodeId id) {
    const Node& cast = graph_.node(id);
    const ValueId wide = cast.outputs[0];
    if (is_result_[wide.index()] || users_[wide.index()].empty()) return;
    const bool may = std::ranges::all_of(users_[wide.index()], [&](NodeId reader) {
      const Node& node = graph_.node(reader);
      const Normalization* kind = normalization(node.op);
      return kind != nullptr && kind->reads_narrow && node.device == cast.device && node.inputs[0] == wide &&
             std::ranges::count(node.inputs, wide) == 1 && !node.attributes.has("to");
    });
    if (!may) return;
    is_folded_[id.index()] = true;
    narrow_[wide] = cast.inputs[0];
  }

  bool reads_narrow(NodeId id) const {
    const Node& node = graph_.node(id);
    return !node.inputs.empty() && node.inputs[0].is_valid() && narrow_.contains(node.inputs[0]);
  }

  void write(NodeId id) {
    const Node& node = graph_.node(id);
    std::vector<ValueId> inputs = node.inputs;
    Attributes attributes = node.attributes;
    if (reads_narrow(id)) {
      inputs[0] = narrow_.at(inputs[0]);
      if (normalization(node.op)->has_widened_to) attributes.set("to", std::string(dtype_name(DType::f32)));
    }
    std::vector<ValueId> outputs = node.outputs;
    if (const auto found = cast_of_.find(id); found != cast_of_.end()) {
      const ValueId rounded = graph_.node(found->second).outputs[0];
      outputs.resize(normalization(node.op)->rounded_at + 1);
      outputs.back() = rounded;
      attributes.set("rounded", std::string(dtype_name(graph_.value(rounded).dtype)));
      if (users_[outputs[0].index()].size() == 1 && !is_result_[outputs[0].index()]) outputs[0] = {};
    }
    NodeInfo info;
    info.name = node.name;
    info.origin = node.origin;
    info.phase = node.phase;
    info.anchor = node.anchor.is_valid() ? rewriter_.node_at(node.anchor) : node.anchor;
    for (const ValueId output : outputs)
      info.output_names.push_back(output.is_valid() ? graph_.value(output).name : "");
    const NodeId made =
        append(rewriter_.graph(), node.op, rewriter_.at(inputs), std::move(attributes), std::move(info));
    rewriter_.graph().node(made).device = node.device;
    rewriter_.graph().node(made).rate = node.rate;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].is_valid()) continue;
      const ValueId result = rewriter_.graph().node(made).outputs[i];
      rewriter_.graph().value(result).rate = graph_.value(outputs[i]).rate;
      rewriter_.map(outputs[i], result);
    }
    rewriter_.map_node(id, made);
    if (const auto found = cast_of_.find(id); found != cast_of_.end()) rewriter_.map_node(found->second, made);
  }

  const Graph& graph_;
  std::vector<std::vector<NodeId>> users_;
  std::vector<bool> is_result_;
  std::map<NodeId, NodeId> cast_of_;   // by the normalization that gives what it rounds
  std::map<ValueId, ValueId> narrow_;  // what a Cast that is left out widened, by its result
  std::vector<bool> is_folded_;        // by node
  Rewriter rewriter_;
};

}  // namespace

Graph fold_casts(Graph graph) {
  const bool has_casts = std::ranges::any_of(graph.nodes(), [](const Node& node) { return node.op == OpKind::Cast; });
  if (!has_casts) return graph;
  return Folder(graph).run();
}

}  // namespace mpc
