#include "passes/canonicalize.h"

#include <algorithm>

#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

// Does the node give its first operand back unchanged?
bool is_identity(const Graph& graph, const Node& node) {
  if (node.inputs.size() != 1 || node.outputs.size() != 1) return false;
  const Value& from = graph.value(node.inputs[0]);
  const Value& to = graph.value(node.outputs[0]);
  if (from.dtype != to.dtype || from.shape != to.shape) return false;
  switch (node.op) {
    case OpKind::Reshape:
    case OpKind::Expand:
    case OpKind::Cast:
      return true;
    case OpKind::Transpose:
      return std::ranges::is_sorted(node.attributes.integers("perm"));
    case OpKind::Slice:
      return std::ranges::all_of(node.attributes.integers("steps"), [](int64_t step) { return step == 1; });
    case OpKind::Pad:
      return std::ranges::all_of(node.attributes.integers("pads"), [](int64_t pad) { return pad == 0; });
    default:
      return false;
  }
}

}  // namespace

Graph canonicalize(const Graph& graph) {
  Rewriter rewriter(graph);
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    if (is_identity(graph, node)) {
      rewriter.map(node.outputs[0], rewriter.at(node.inputs[0]));
      continue;
    }
    const NodeId copy = rewriter.copy(NodeId(i));
    if (node.op != OpKind::Reshape) continue;
    // The operand of the copy may itself come from a Reshape: read from before it.
    Graph& result = rewriter.graph();
    const Value& operand = result.value(result.node(copy).inputs[0]);
    if (operand.kind == ValueKind::node && result.node(operand.producer).op == OpKind::Reshape) {
      result.node(copy).inputs[0] = result.node(operand.producer).inputs[0];
    }
  }
  return remove_dead_nodes(rewriter.finish(Stage::canonical));
}

bool have_same_structure(const Graph& a, const Graph& b) {
  if (a.node_count() != b.node_count() || a.value_count() != b.value_count()) return false;
  for (int i = 0; i < a.node_count(); ++i) {
    const Node& x = a.node(NodeId(i));
    const Node& y = b.node(NodeId(i));
    if (x.op != y.op || x.inputs != y.inputs || x.outputs != y.outputs || x.anchor != y.anchor || x.phase != y.phase ||
        x.rate != y.rate)
      return false;
  }
  for (int i = 0; i < a.value_count(); ++i) {
    const Value& x = a.value(ValueId(i));
    const Value& y = b.value(ValueId(i));
    if (x.kind != y.kind || x.dtype != y.dtype || x.rate != y.rate || x.source != y.source || x.recipe != y.recipe) return false;
  }
  return true;
}

}  // namespace mpc
