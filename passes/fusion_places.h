#pragma once

#include <regex>
#include <vector>

#include "compiler/ir/graph.h"
#include "passes/fuse.h"

namespace mpc {

/// Which nodes may run on the device of which, by what the user said. Borrows both.
class FusionPlaces {
 public:
  /// @throws Error(M003) for a pin that is no regular expression.
  FusionPlaces(const Graph& graph, const FusionLimits& limits);

  /// Does `node` run where `last` does, whatever is decided?
  bool follows(NodeId node, NodeId last) const;

 private:
  std::vector<bool> pins_of(NodeId id) const;

  const Graph& graph_;
  const FusionLimits& limits_;
  std::vector<std::regex> patterns_;
};

}  // namespace mpc
