#pragma once

#include <vector>

#include "compiler/ir/graph.h"

namespace mpc {

/// `times` equal runs of `nodes` forward nodes each, one after another, from the forward node `first` on (in id order).
struct Repetition {
  NodeId first;
  int nodes = 0;
  int times = 0;
};

/// The repetition that covers most forward nodes, of equal ones that with the shortest runs; nothing repeated: times is
/// 0. Two runs are equal when their nodes have the same operators, attributes and types, and read from the same places:
/// the node as far before, or the very same value outside of both runs. Which weights they read does not matter. O(N
/// log N) for N nodes, for each of a few lengths of runs.
Repetition find_repetition(const Graph& graph);

}  // namespace mpc
