#include "passes/round_weights.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "compiler/ir/rewriter.h"

namespace mpc {
namespace {

// The type of 16 bits that all readers cast the parameter to.
std::optional<DType> rounded_dtype(const Graph& graph, const std::vector<NodeId>& readers) {
  std::optional<DType> dtype;
  for (const NodeId id : readers) {
    const Node& cast = graph.node(id);
    if (cast.op != OpKind::Cast || cast.inputs.size() != 1) return std::nullopt;
    const DType to = graph.value(cast.outputs[0]).dtype;
    if ((to != DType::f16 && to != DType::bf16) || (dtype && *dtype != to)) return std::nullopt;
    dtype = to;
  }
  return dtype;
}

}  // namespace

Graph round_weights(const Graph& graph) {
  const auto users = users_of(graph);
  std::set<ValueId> results;
  for (const NamedValue& output : graph.outputs) results.insert(output.value);
  std::map<ValueId, DType> rounded;  // by parameter
  for (int i = 0; i < graph.value_count(); ++i) {
    const ValueId id(i);
    const Value& value = graph.value(id);
    const bool is_matrix = value.kind == ValueKind::parameter && value.shape.rank() > 1;
    if (!is_matrix || value.dtype != DType::f32 || results.contains(id)) continue;
    const auto is_result = [&](NodeId reader) { return results.contains(graph.node(reader).outputs[0]); };
    const auto& readers = users[id.index()];
    const std::optional<DType> dtype = rounded_dtype(graph, readers);
    if (dtype && std::ranges::none_of(readers, is_result)) rounded.emplace(id, *dtype);
  }
  Rewriter rewriter(graph);
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    const auto found = node.inputs.size() == 1 ? rounded.find(node.inputs[0]) : rounded.end();
    if (found == rounded.end()) {
      rewriter.copy(NodeId(i));
      continue;
    }
    const ValueId from = found->first;
    if (!rewriter.is_mapped(from)) {
      const Value& value = graph.value(from);
      rewriter.map(
          from, rewriter.graph().add_parameter(value.name, found->second, value.shape, value.source, value.trainable));
    }
    rewriter.map(node.outputs[0], rewriter.at(from));
  }
  return rewriter.finish(graph.stage);
}

}  // namespace mpc
