#include "compiler/ir/rewriter.h"

#include <utility>

#include "compiler/base/error.h"

namespace mpc {

Rewriter::Rewriter(const Graph& source) : source_(source) {
  graph_.name = source.name;
  graph_.reserve(source.node_count(), source.value_count());
  for (const ValueId input : source.inputs) at(input);
}

ValueId Rewriter::at(ValueId old) {
  if (!old.is_valid()) return {};
  if (values_[old].is_valid()) return values_[old];
  const Value& value = source_.value(old);
  ValueId id;
  switch (value.kind) {
    case ValueKind::input:
      id = graph_.add_input(value.name, value.dtype, value.shape, value.rate);
      break;
    case ValueKind::parameter:
      id = graph_.add_parameter(value.name, value.dtype, value.shape, value.source, value.trainable);
      graph_.value(id).recipe = value.recipe;
      break;
    case ValueKind::state:
      id = graph_.add_state(value.name, value.literal);
      break;
    case ValueKind::constant:
      id = graph_.add_constant(value.name, value.literal);
      break;
    case ValueKind::node:
      MPC_CHECK(false, "value '" + value.name + "' is used before its node was rewritten");
  }
  values_[old] = id;
  return id;
}

std::vector<ValueId> Rewriter::at(const std::vector<ValueId>& old) {
  std::vector<ValueId> mapped;
  mapped.reserve(old.size());
  for (const ValueId id : old) mapped.push_back(at(id));
  return mapped;
}

NodeId Rewriter::copy(NodeId old) {
  const Node& source = source_.node(old);
  const std::vector<ValueId>& old_outputs = source.outputs;
  Node node{.op = source.op,
            .name = source.name,
            .origin = source.origin,
            .attributes = source.attributes,
            .inputs = at(source.inputs),
            .outputs = {},
            .phase = source.phase,
            .rate = source.rate,
            .anchor = source.anchor,
            .device = source.device};
  if (node.anchor.is_valid()) node.anchor = anchor_of_copy(node);
  std::vector<Graph::OutputType> types;
  types.reserve(old_outputs.size());
  for (const ValueId output : old_outputs) {
    if (!output.is_valid()) {
      types.emplace_back();
      continue;
    }
    const Value& value = source_.value(output);
    types.push_back({value.name, value.dtype, value.shape, value.rate});
  }
  const NodeId id = graph_.add_node(std::move(node), std::move(types));
  for (size_t i = 0; i < old_outputs.size(); ++i) {
    if (old_outputs[i].is_valid()) map(old_outputs[i], graph_.node(id).outputs[i]);
  }
  nodes_[old] = id;
  return id;
}

NodeId Rewriter::anchor_of_copy(const Node& node) const {
  if (nodes_[node.anchor].is_valid()) return nodes_[node.anchor];
  for (const ValueId input : node.inputs) {
    if (!input.is_valid() || graph_.value(input).kind != ValueKind::node) continue;
    const NodeId producer = graph_.value(input).producer;
    const NodeId anchor = graph_.node(producer).phase == Phase::forward ? producer : graph_.node(producer).anchor;
    if (anchor.is_valid()) return anchor;
  }
  return {};
}

Graph Rewriter::finish(Stage stage) {
  graph_.stage = stage;
  for (const NamedValue& output : source_.outputs) graph_.outputs.push_back({output.name, at(output.value)});
  graph_.loss = at(source_.loss);
  for (const Update& update : source_.updates) graph_.updates.push_back({at(update.persistent), at(update.next)});
  for (const ParameterGradient& g : source_.gradients) graph_.gradients.push_back({at(g.parameter), at(g.gradient)});
  return std::move(graph_);
}

Graph remove_dead_nodes(const Graph& graph) {
  std::vector<bool> is_live(static_cast<size_t>(graph.value_count()), false);
  const auto keep = [&](ValueId id) {
    if (id.is_valid()) is_live[id.index()] = true;
  };
  for (const NamedValue& output : graph.outputs) keep(output.value);
  for (const Update& update : graph.updates) keep(update.next);
  for (const ParameterGradient& g : graph.gradients) keep(g.gradient);
  keep(graph.loss);
  std::vector<bool> is_node_live(static_cast<size_t>(graph.node_count()), false);
  for (int i = graph.node_count() - 1; i >= 0; --i) {
    const Node& node = graph.node(NodeId(i));
    bool live = false;
    for (const ValueId output : node.outputs) live = live || (output.is_valid() && is_live[output.index()]);
    if (!live) continue;
    is_node_live[static_cast<size_t>(i)] = true;
    for (const ValueId input : node.inputs) keep(input);
  }
  Rewriter rewriter(graph);
  for (int i = 0; i < graph.node_count(); ++i) {
    if (is_node_live[static_cast<size_t>(i)]) rewriter.copy(NodeId(i));
  }
  return rewriter.finish(graph.stage);
}

}  // namespace mpc
