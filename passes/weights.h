#pragma once

#include <vector>

#include "compiler/ir/graph.h"

namespace mpc {

/// [value]: is it a parameter or a state that the step replaces? Such a value has one home; a parameter that no step
/// replaces may lie on every device that reads it. O(V).
std::vector<bool> replaced_values(const Graph& graph);

/// [value]: is it the same in every step, and made without much work? Constants, parameters that no step replaces, and
/// what moves their elements (at most one operation for each). O(N + E).
std::vector<bool> fixed_values(const Graph& graph);

}  // namespace mpc
