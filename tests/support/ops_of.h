#pragma once

#include <vector>

#include "compiler/ir/graph.h"

namespace mpc::test {

/// The operators of a graph's nodes, in their order.
inline std::vector<OpKind> ops_of(const Graph& graph) {
  std::vector<OpKind> ops;
  for (const Node& node : graph.nodes()) ops.push_back(node.op);
  return ops;
}

}  // namespace mpc::test
