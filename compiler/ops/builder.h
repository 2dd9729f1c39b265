#pragma once

#include <string>
#include <vector>

#include "compiler/ir/graph.h"
#include "compiler/ops/op_def.h"

namespace mpc {

/// What a node of a graph sees of its operands.
std::vector<std::optional<TensorType>> types_of(const Graph& graph, const std::vector<ValueId>& values);

/// Where a node comes from, for append().
struct NodeInfo {
  std::string name;
  std::string origin;  // empty: the name
  Phase phase = Phase::forward;
  NodeId anchor;
  /// Names of the outputs, "" for an absent one; empty: one output named after the node.
  std::vector<std::string> output_names;
};

/// Appends a node, inferring the types of its outputs. The node and its outputs are per_step when all operands are (and
/// a gradient's anchor is too), or when the op updates a per_step value in place (the node then is per_microbatch if
/// any operand is). @return its id.
/// @throws as infer_types.
NodeId append(Graph& graph, OpKind op, std::vector<ValueId> inputs, Attributes attributes, NodeInfo info);

/// Quantities of a node of a graph.
OpQuantities quantities_of(const Graph& graph, NodeId id);

}  // namespace mpc
