#pragma once

#include <cstdint>
#include <vector>

#include "compiler/plan/plan.h"

namespace mpc {

/// Per device, the most bytes that hold something at one moment of the plan's total order, rounded up to the alignment
/// of slices: with the same order and the same slices in place of each other, no arena is smaller.
/// What keeps its bytes from step to step counts always, every other slice from its first to its last instruction;
/// slices in one place count once. O(slices log slices + instructions). @pre the plan passed check_plan.
std::vector<int64_t> most_live_bytes(const Plan& plan);

}  // namespace mpc
