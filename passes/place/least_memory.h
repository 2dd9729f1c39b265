#pragma once

#include <vector>

#include "passes/place/problem.h"

namespace mpc::place {

/// No placement has a smaller largest share: what the devices hold together, and the block that needs most.
double least_share_bound(const Problem& problem);

/// The split into stages found whose largest share is the smallest, and of those the fastest found. Any number of
/// stages: more of them hold fewer weights each, and in training more micro-batches. Nothing when no stages obey the
/// pins. A dynamic program over linear orders of blocks for every number of stages, then annealing.
/// O(orders * devices * blocks * longest stage).
std::vector<int> split_for_memory(const Problem& problem);

}  // namespace mpc::place
