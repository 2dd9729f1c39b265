#pragma once

#include <optional>
#include <vector>

#include "passes/place/problem.h"

namespace mpc::place {

// Dynamic programming over one linear order of the blocks: device d takes a run of consecutive blocks, in device order.
//   best[d][j] = min over i of max(best[d-1][i], load(d, i, j))
// where load(d, i, j) is the compute of blocks i..j-1 on device d plus the tensors that enter and leave the run. The
// inner walk lowers i one block at a time and updates the load incrementally, and stops when the run's compute alone exceeds the best
// value known or its persistent bytes exceed the device. Exact for this order; O(D * n * window * degree).
// Source: the linearised form of the DP of Tarnawski et al., Efficient Algorithms for Device Placement (NeurIPS 2020).

/// The best split of `order` (a topological order of all blocks) into one non-empty run per device, or nothing when no
/// split fits the capacities and pins. @return the device of each block.
std::optional<std::vector<int>> split_contiguous(const Problem& problem, const std::vector<int>& order);

/// Topological orders worth splitting: block order, and depth first with the newest ready block first.
std::vector<std::vector<int>> linear_orders(const Problem& problem);

}  // namespace mpc::place
