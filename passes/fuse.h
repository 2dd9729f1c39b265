#pragma once

#include <map>
#include <string>
#include <vector>

#include "compiler/ir/graph.h"
#include "passes/place/problem.h"

namespace mpc {

// Elementwise operators in a row become one Elementwise node (compiler/base/elementwise_program.h), which reads its
// operands once and writes one result. It computes the same bits: every step rounds as its operator does alone.
//
// A group is a node and, as far as they qualify, what makes its operands. What qualifies is read by the group alone and
// has the shape, phase and rate of its result; so nothing is computed twice, nothing inside is kept, and a group is a
// node of the graph like any other: it cannot close a cycle. A group never
// - keeps more bytes than its nodes would: where other nodes stand between two of its nodes, the operands that it now
// holds
//   until its end must not be larger than the results that it no longer holds (so no cut sends more, either);
// - joins gradients of forward nodes that may be placed apart, or nodes that pins or an assignment send apart;
// - has more inputs or steps than a program may.

/// The group of every node, named by its last one; a node that is fused with nothing stands for itself.
using FusionGroups = IdMap<NodeId, NodeId>;

/// What the user said about where nodes run.
struct FusionLimits {
  std::vector<place::Pin> pins;
  std::map<std::string, int> assignment;  // by name; a node that is not in it goes wherever its group goes
};

/// @pre `graphs` have the same structure: those of the sizes of micro-batch. O((N + E) * steps of a program).
/// @throws Error(M003) for a pin that is no regular expression.
FusionGroups fusion_groups(const std::vector<const Graph*>& graphs, const FusionLimits& limits);

/// The graph with one Elementwise node for each group of several nodes. It has the name and origin of the last one, and
/// the origins of all as an attribute. O(N + E).
Graph fuse(const Graph& graph, const FusionGroups& groups);

}  // namespace mpc
