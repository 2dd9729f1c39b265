#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compiler/plan/plan.h"
#include "tests/support/run_plan.h"

// The plans that the streams' test (on a fake device) and the GPU's test share.

namespace mpc::test {

/// The devices of a plan on GPUs: device i on gpus[i]; -1 leaves it on the CPU.
Plan on_gpus(Plan plan, const std::vector<int>& gpus);
/// A training plan of the random graph `seed` on CPU devices, placed by the planner or at random; schedule, optimizer,
/// clipping and number of micro-batches follow from the seed.
Plan random_training_plan(uint64_t seed, int devices, bool is_random);
/// How often a step of that plan, randomly placed, has to copy from device to device: every value once to every other
/// device that reads it, counted on the graph and its placement alone.
int64_t cut_edges(uint64_t seed, int devices);
/// Where two runs differ, or nothing.
std::string difference(const Outcome& a, const Outcome& b);

}  // namespace mpc::test
