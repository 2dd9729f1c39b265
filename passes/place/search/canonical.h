#pragma once

#include <vector>

#include "compiler/cost/cost_graph.h"

namespace mpc::place {

// An order of the nodes that the graph itself gives: by how long the longest way to a node is, then by what leads to it
// and what it leads to, as one number; of nodes that are alike in that the ones behind earlier nodes are earlier.
// Neither names nor the order of the file nor the unit of time are in it, so a search that begins with it gives a graph
// the same answer however its file was written. (Nodes that are alike in all this and still do not stand for each other
// keep the file's order; in measured graphs there are hardly any.)

/// Nodes in the order of the graph, as numbers of `graph`. O((nodes + edges) log nodes).
std::vector<int> structural_order(const CostGraph& graph);

/// The graph with its nodes in this order, and colours numbered as they appear.
CostGraph reordered(const CostGraph& graph, const std::vector<int>& order);

}  // namespace mpc::place
