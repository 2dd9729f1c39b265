#pragma once

#include <vector>

#include "passes/place/evaluate.h"
#include "passes/place/stage_instance.h"

namespace mpc::place {

/// Local improvement of a split into stages, valued as it will be (evaluate): blocks of the most loaded device and
/// their neighbours move to other stages that they may be on, and devices change places, as long as the largest load
/// falls, or stays and less is sent. Keeps the stages contiguous, on at least `least_devices` devices, within
/// capacities and pins. At most `most_evaluations`, O(blocks + tensors) each. Deterministic.
/// @param device_of_group [block of the instance]: device of the problem; such a split.
std::vector<int> improve_stages(const Problem& problem, const StageInstance& stages, std::vector<int> device_of_group,
                                int least_devices, bool obeys_capacities, int most_evaluations);

}  // namespace mpc::place
