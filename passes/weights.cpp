#include "passes/weights.h"

#include <algorithm>

#include "compiler/ops/builder.h"

namespace mpc {

std::vector<bool> replaced_values(const Graph& graph) {
  std::vector<bool> replaced(static_cast<size_t>(graph.value_count()));
  for (const Update& update : graph.updates) replaced[update.persistent.index()] = true;
  return replaced;
}

std::vector<bool> fixed_values(const Graph& graph) {
  const std::vector<bool> replaced = replaced_values(graph);
  std::vector<bool> fixed(static_cast<size_t>(graph.value_count()));
  for (int i = 0; i < graph.value_count(); ++i) {
    const ValueId id(i);
    const ValueKind kind = graph.value(id).kind;
    fixed[id.index()] = kind == ValueKind::constant || (kind == ValueKind::parameter && !replaced[id.index()]);
  }
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    const auto is_fixed = [&](ValueId id) { return !id.is_valid() || fixed[id.index()]; };
    if (node.rate != Rate::per_step || node.phase != Phase::forward || !std::ranges::all_of(node.inputs, is_fixed))
      continue;
    double elements = 0;
    for (const ValueId output : node.outputs) {
      if (output.is_valid()) elements += static_cast<double>(graph.value(output).shape.elements());
    }
    if (quantities_of(graph, NodeId(i)).flops > elements) continue;
    for (const ValueId output : node.outputs) {
      if (output.is_valid()) fixed[output.index()] = true;
    }
  }
  return fixed;
}

}  // namespace mpc
