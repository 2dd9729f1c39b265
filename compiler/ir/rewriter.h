#pragma once

#include <vector>

#include "compiler/ir/graph.h"

namespace mpc {

/// Builds a graph from another one, node by node, in order: how a pass drops, replaces or inserts nodes.
/// Usage: for each old node either copy(id), or add nodes to graph() and map(old output, new value); then finish().
/// Values that no node makes (inputs, parameters, states, constants) are copied when they are first used; graph inputs
/// always. Names are kept.
class Rewriter {
 public:
  explicit Rewriter(const Graph& source);

  const Graph& source() const { return source_; }
  Graph& graph() { return graph_; }
  /// The new value that stands for `old`. @pre its producer was copied or its outputs were mapped.
  ValueId at(ValueId old);
  bool is_mapped(ValueId old) const { return values_[old].is_valid(); }
  std::vector<ValueId> at(const std::vector<ValueId>& old);
  void map(ValueId old, ValueId replacement) { values_[old] = replacement; }
  /// Copies a node with its operands mapped; its outputs are mapped to the copies. Where its anchor was dropped, the
  /// copy belongs to what makes its operands: the first that is a forward node or has an anchor (none: no anchor).
  /// @return the new id.
  NodeId copy(NodeId old);
  /// The new node that an old one became (the last copy), invalid if it was not copied.
  NodeId node_at(NodeId old) const { return nodes_[old]; }
  void map_node(NodeId old, NodeId replacement) { nodes_[old] = replacement; }
  /// Maps outputs, loss, updates and gradients, and gives the graph away.
  Graph finish(Stage stage);

 private:
  /// @pre the node's operands are mapped, and its anchor is that of the source.
  NodeId anchor_of_copy(const Node& node) const;

  const Graph& source_;
  Graph graph_;
  IdMap<ValueId, ValueId> values_;
  IdMap<NodeId, NodeId> nodes_;
};

/// The graph without nodes whose outputs nobody reads, and without unused constants. O(N + E).
Graph remove_dead_nodes(const Graph& graph);

}  // namespace mpc
