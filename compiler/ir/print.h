#pragma once

#include <string>

#include "compiler/ir/graph.h"

namespace mpc {

/// The text form of a graph (docs/ir.md). parse_graph reads it back to an equal graph; the same graph always prints the
/// same text.
std::string print(const Graph& graph);

}  // namespace mpc
