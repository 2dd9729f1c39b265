#pragma once

#include <vector>

#include "passes/place/search/random.h"
#include "passes/place/stage_instance.h"

namespace mpc::place {

/// Simulated annealing of a split into stages, valued as it will be (evaluate): blocks move to other stages that they
/// may be on, alone or with what they must take along, and devices change places. Keeps the split contiguous, on at
/// least `least_devices` devices, within capacities and pins. `evaluations`, O(blocks + tensors) each. Deterministic.
/// @param device_of_group [block of the instance]: device of the problem; such a split.
/// @return the split with the least largest load that it came by.
std::vector<int> anneal_stages(const Problem& problem, const StageInstance& stages, std::vector<int> device_of_group,
                               int least_devices, bool obeys_capacities, int evaluations, Random& random);

}  // namespace mpc::place
