#include "passes/fusion_places.h"

#include <algorithm>

namespace mpc {

FusionPlaces::FusionPlaces(const Graph& graph, const FusionLimits& limits) : graph_(graph), limits_(limits) {
  for (const place::Pin& pin : limits.pins) patterns_.push_back(place::regex_of(pin));
}

bool FusionPlaces::follows(NodeId node, NodeId last) const {
  const auto own = limits_.assignment.find(graph_.node(node).name);
  if (own != limits_.assignment.end()) {
    const auto other = limits_.assignment.find(graph_.node(last).name);
    if (other == limits_.assignment.end() || other->second != own->second) return false;
  }
  const std::vector<bool> pinned = pins_of(node);
  return std::ranges::find(pinned, true) == pinned.end() || pinned == pins_of(last);
}

std::vector<bool> FusionPlaces::pins_of(NodeId id) const {
  std::vector<bool> found;
  for (const std::regex& pattern : patterns_) found.push_back(std::regex_search(graph_.node(id).name, pattern));
  return found;
}

}  // namespace mpc
