#pragma once

#include <vector>

#include "passes/place/problem.h"

namespace mpc::place {

/// Simulated annealing of the critical path (critical_path_s): blocks move to other devices, alone or with a run of
/// those that they feed. Obeys pins; never exceeds the capacities by more than `device_of_block` does. Deterministic.
/// @param budget_s  seconds of a current core, counted in steps
/// @return the fastest placement that it came by. O(evaluations * (blocks + tensors)).
std::vector<int> anneal_latency(const Problem& problem, const std::vector<int>& device_of_block, double budget_s);

}  // namespace mpc::place
