#pragma once

#include <vector>

#include "passes/place/search/instance.h"
#include "passes/place/search/random.h"

namespace mpc::place {

/// Joins blocks that would pay most for being apart: in random order, each to the neighbour with the largest cost of
/// common tensors per time of both, up to a time and memory that leave many groups per device; until about `target`
/// groups are left or nothing can be joined. With `device_of_block` (otherwise empty) only blocks of one device join,
/// so that the split stands on the groups. @return the group of each block, numbered from 0. O(target depth * edges).
std::vector<int> heavy_groups(const Instance& instance, int target, const std::vector<int>& device_of_block,
                              Random& random);

/// The instance with every group as one block. Orders of blocks are dropped.
Instance grouped(const Instance& instance, const std::vector<int>& group_of_block);

/// The same blocks with fewer tensors: one with a single reader costs both devices the same whichever of them makes it,
/// so those of two blocks are one, in training mostly an activation and its gradient. @pre !overlaps_transfers.
Instance with_common_tensors(const Instance& instance);

}  // namespace mpc::place
