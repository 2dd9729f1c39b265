#pragma once

#include <vector>

#include "compiler/ir/graph.h"

namespace mpc {

/// The level of every node: the largest number of changes of device or of phase group (forward; backward; update) on
/// any path that ends there. Transfers are transparent: they have the level of their source. Per-step sources
/// (parameters) have level 0. Backward nodes that need no gradient have the level of their first reader.
/// @pre every node is placed. O(N + E).
std::vector<int> levels_of(const Graph& graph);

/// forward 0, input_grad and weight_grad 1, update 2.
int phase_group(Phase phase);

}  // namespace mpc
