#pragma once

#include <vector>

#include "passes/place/search/random.h"
#include "passes/place/stage_instance.h"

namespace mpc::place {

enum class AnnealGoal : uint8_t {
  load,    // the largest load of a device, within capacities if they count
  memory,  // the largest share of its capacity that a device holds
};

struct AnnealOptions {
  AnnealGoal goal = AnnealGoal::load;
  int least_devices = 0;
  bool obeys_capacities = true;
  int evaluations = 0;
};

/// Simulated annealing of a split into stages, valued as it will be (evaluate): blocks move to other stages that they
/// may be on, alone or with what they must take along, and devices change places. Keeps the split contiguous, on at
/// least so many devices, and obeys pins. `evaluations`, O(blocks + tensors) each. Deterministic.
/// @param device_of_group [block of the instance]: device of the problem; such a split.
/// @return the best split that it came by.
std::vector<int> anneal_stages(const Problem& problem, const StageInstance& stages,
                               const std::vector<int>& device_of_group, const AnnealOptions& options, Random& random);

}  // namespace mpc::place
