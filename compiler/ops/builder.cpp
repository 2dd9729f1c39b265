#include "compiler/ops/builder.h"

#include <utility>

namespace mpc {

std::vector<std::optional<TensorType>> types_of(const Graph& graph, const std::vector<ValueId>& values) {
  std::vector<std::optional<TensorType>> types;
  types.reserve(values.size());
  for (const ValueId id : values) {
    if (id.is_valid()) {
      types.push_back(TensorType{graph.value(id).dtype, graph.value(id).shape});
    } else {
      types.emplace_back();
    }
  }
  return types;
}

NodeId append(Graph& graph, OpKind op, std::vector<ValueId> inputs, Attributes attributes, NodeInfo info) {
  while (!inputs.empty() && !inputs.back().is_valid()) inputs.pop_back();
  if (info.output_names.empty()) info.output_names = {info.name};
  while (info.output_names.size() > 1 && info.output_names.back().empty()) info.output_names.pop_back();
  if (info.origin.empty()) info.origin = info.name;

  Node node;
  node.op = op;
  node.name = std::move(info.name);
  node.origin = std::move(info.origin);
  node.phase = info.phase;
  node.anchor = info.anchor;
  node.rate = Rate::per_step;
  for (const ValueId input : inputs) {
    if (input.is_valid() && graph.value(input).rate == Rate::per_microbatch) node.rate = Rate::per_microbatch;
  }
  // A gradient is computed as often as what it differentiates, even where it is made of constants only.
  const bool is_gradient = node.phase == Phase::input_grad || node.phase == Phase::weight_grad;
  if (is_gradient && node.anchor.is_valid() && graph.node(node.anchor).rate == Rate::per_microbatch) {
    node.rate = Rate::per_microbatch;
  }
  const int output_count = static_cast<int>(info.output_names.size());
  const auto types = infer_types(op, describe(node), attributes, types_of(graph, inputs), output_count);

  std::vector<Graph::OutputType> outputs;
  outputs.reserve(info.output_names.size());
  for (int i = 0; i < output_count; ++i) {
    std::string& name = info.output_names[static_cast<size_t>(i)];
    if (name.empty()) {
      outputs.emplace_back();
      continue;
    }
    const TensorType& type = *types[static_cast<size_t>(i)];
    const bool is_update = aliased_input(op, i).has_value();
    outputs.push_back({std::move(name), type.dtype, type.shape, is_update ? Rate::per_step : node.rate});
  }
  node.inputs = std::move(inputs);
  node.attributes = std::move(attributes);
  return graph.add_node(std::move(node), std::move(outputs));
}

OpQuantities quantities_of(const Graph& graph, NodeId id) {
  const Node& node = graph.node(id);
  const auto inputs = types_of(graph, node.inputs);
  const auto outputs = types_of(graph, node.outputs);
  return op_quantities(node.op, CostContext{node.attributes, inputs, outputs});
}

}  // namespace mpc
