#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "compiler/cost/parallel_graph.h"

namespace mpc::place {

/// Sets of nodes that hold, with a node, all nodes before it: what lies before a border between two stages. The first
/// is empty, the last is everything, and a set comes after its subsets.
class Downsets {
 public:
  /// Every downset, when there are at most `most`. @return false when there are more.
  bool make_all(const ParallelGraph& graph, size_t most);
  /// The prefixes of one order of the nodes. @pre no edge leads backward in `order`.
  void make_prefixes(const ParallelGraph& graph, const std::vector<int>& order);

  size_t size() const { return links_of_.size() - 1; }
  bool has(size_t set, int node) const {
    return (bits_[set * words_ + static_cast<size_t>(node) / 64] >> (node % 64) & 1) != 0;
  }
  /// The nodes of `above` that `below` has not, ascending.
  std::vector<int> nodes_between(size_t above, size_t below) const {
    std::vector<int> nodes;
    for (size_t word = 0; word < words_; ++word) {
      for (uint64_t bits = bits_[above * words_ + word] & ~bits_[below * words_ + word]; bits != 0; bits &= bits - 1)
        nodes.push_back(static_cast<int>(word * 64) + std::countr_zero(bits));
    }
    return nodes;
  }
  /// The next smaller set without `node`.
  struct Link {
    size_t below = 0;
    int node = 0;
  };
  const Link* begin_of(size_t set) const { return links_.data() + links_of_[set]; }
  const Link* end_of(size_t set) const { return links_.data() + links_of_[set + 1]; }

 private:
  size_t words_ = 0;
  std::vector<uint64_t> bits_;
  std::vector<Link> links_;
  std::vector<size_t> links_of_;  // [set + 1]
};

}  // namespace mpc::place
