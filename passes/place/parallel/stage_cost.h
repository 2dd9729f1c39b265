#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "compiler/cost/parallel_graph.h"

namespace mpc::place {

inline constexpr double kNever = std::numeric_limits<double>::infinity();

/// How a stage is spread: over replicas that each take every replicas-th micro-batch, and each replica over the devices
/// of a tensor degree.
struct Spread {
  size_t degree = 0;      // index into ParallelGraph::degrees
  int64_t replicas = 1;   // divides the micro-batches
  int64_t in_flight = 1;  // micro-batches whose activations one replica holds
};

/// One choice for every node of a stage, the cheapest known that fits into a device.
struct StageCost {
  double time = kNever;        // per sample; kNever: nothing fits
  double time_bound = kNever;  // no choices that fit are faster
  double memory_bytes = 0;     // of one device
  std::vector<int> choices;    // [node of the stage]
};

/// Chooses how to compute every node of a stage: a knapsack, in which a node gives bytes for time. Solved by its linear
/// relaxation (which is the bound), rounded, and where `limit` lies between the two exactly, unless there are too many
/// ways: whoever only asks whether the stage takes at most so long seldom needs more than the relaxation.
///
/// @param is_inside  [node]: the nodes of the stage
/// @param limit      a time per sample; kNever: it is never between
/// @complexity choices * log(choices), and what the exact solution takes
StageCost cost_of_stage(const ParallelGraph& graph, std::span<const int> nodes, const std::vector<char>& is_inside,
                        const Spread& spread, double limit);

/// Time of a sample that the node adds to a stage, for one of its choices.
double time_in_stage(const ParallelGraph& graph, int node, const ParallelChoice& choice,
                     const std::vector<char>& is_inside, int64_t replicas);

}  // namespace mpc::place
