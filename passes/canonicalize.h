#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// Removes nodes that change nothing (Reshape, Transpose, Expand, Cast, Slice or Pad to the same tensor), joins Reshape
/// of Reshape, and drops nodes whose results nobody reads. Computes the same values, bit for bit. @post stage
/// canonical. O(N + E).
Graph canonicalize(const Graph& graph);

/// Do two graphs have the same nodes, operands and values, up to shapes, attributes and constants? A plan needs that
/// of the graphs of its two micro-batch sizes. O(N + E).
bool have_same_structure(const Graph& a, const Graph& b);

}  // namespace mpc
