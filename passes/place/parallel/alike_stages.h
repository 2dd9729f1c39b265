#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "compiler/cost/parallel_graph.h"

namespace mpc::place {

/// Which stages of a graph are alike: the nodes of one are those of the other so many places further on, one by one
/// with the same choices, and with edges of the same bytes to and from as many places before and behind. Such stages
/// cost the same, to the bit, however they are spread. In a model of equal layers most stages are like an earlier one.
class AlikeStages {
 public:
  /// O(nodes + edges), and as much again for what looks alike.
  explicit AlikeStages(const ParallelGraph& graph);

  /// The number of the first stage that the stage is like, counted among those that are like no earlier one, and
  /// whether it is itself the first. @pre `nodes` ascend and are not empty. O(nodes).
  std::pair<size_t, bool> of(const std::vector<int>& nodes);

  /// How many nodes are like no earlier one.
  int class_count() const { return class_count_; }

 private:
  bool are_alike(const std::vector<int>& a, const std::vector<int>& b) const;

  std::vector<int> class_of_;  // [node]
  int class_count_ = 0;
  std::vector<std::vector<int>> firsts_;                     // [number] nodes of the first such stage
  std::unordered_map<uint64_t, std::vector<size_t>> known_;  // by hash; only looked up
};

}  // namespace mpc::place
