#pragma once

#include <vector>

#include "passes/place/search/instance.h"

namespace mpc::place {

// Blocks without time multiply the ideals of a graph, and most belong beside one neighbour. In any contiguous split
// let such a block move to the neighbour's device: both devices stop paying for the tensors that only these two
// exchange, and at worst begin to pay for those that the block exchanges with others alone; nothing changes for other
// devices. So where the former cost as much as the latter, and the neighbour is all that comes before the block, or all
// that comes after it, only bytes can keep them apart.

/// An instance with fewer blocks.
struct Folding {
  Instance instance;
  std::vector<int> group_of_block;
};

/// The instance with such blocks joined, and their bytes left out: its best contiguous split is never worse than that
/// of `instance`, and the same when it fits there. @pre a graph of measured costs: no activations, transfers do not
/// overlap. O(rounds * (consumers + order)), with as many rounds as blocks wait for others to join, a few.
Folding fold_weightless(const Instance& instance);

}  // namespace mpc::place
