#pragma once

#include <optional>
#include <string>

#include "compiler/ir/graph.h"

namespace mpc {

/// The first rule of graph.stage that does not hold, in words, or nothing. The rules need no op definitions (graph.h,
/// top): ids in range and ascending along edges, names unique, outputs and producers agree, rates, aliases (other
/// readers of an updated value come first), updates and gradients well formed, phases, anchors, devices.
/// compiler/ops/verify_types.h checks the types. For graphs that a user wrote. O(N + E).
std::optional<std::string> find_violation(const Graph& graph);

/// @throws Error(M700) naming what find_violation finds: a graph that passes wrote must satisfy the rules.
void verify(const Graph& graph);

}  // namespace mpc
