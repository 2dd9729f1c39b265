#pragma once

#include <utility>
#include <vector>

#include "passes/place/search/anneal.h"

namespace mpc::place {

// Good splits agree on much. What two of them keep together becomes one block each, and the few blocks that are left
// are annealed: that searches among the ways in which the two differ, with moves of the very pieces in which they do.
// Then the pieces are taken apart and annealed once more, cold. Measured on layer graphs, where the last thousandth is
// balance: better than either in most cases, where rounds from the better one alone no longer find anything.
// Source: the combine operator of Sanders and Schulz, Distributed Evolutionary Graph Partitioning (ALENEX 2012).

/// Does `a` exceed capacities by less, or equally and is its largest load smaller?
bool is_better(const Split& a, const Split& b);

/// The best splits met that fit, no two of one value.
class Elite {
 public:
  void add(const Split& split);
  size_t size() const { return splits_.size(); }
  /// Two of them, the better one first. @pre there are two. They stay until the next add().
  std::pair<const Split*, const Split*> any_two(Random& random) const;

 private:
  static constexpr size_t kMost = 8;
  std::vector<Split> splits_;  // best first
};

/// A split made from what two have in common, beginning as `better`; it may be worse, when both have the best of all
/// ways in which they differ. Beside the proposals: O(blocks + consumers) for
/// each group that a tensor reaches.
Split combine(const Instance& instance, const Split& better, const Split& worse, int64_t proposals, Random& random,
              Work& work);

}  // namespace mpc::place
