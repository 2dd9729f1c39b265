#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// Re-infers every node and compares with the types and attributes the graph states. O(N + E).
/// @throws Error(M700) naming the first node that differs.
void verify_types(const Graph& graph);

}  // namespace mpc
