#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compiler/cost/parallel_graph.h"
#include "passes/place/search/work.h"

namespace mpc::place {

// A pipeline of stages, each spread over its own number of devices: `replicas` copies that share the micro-batches
// (data parallel), each over `degree` devices (tensor parallel), some nodes computing their activations again.
//
// Whether a time per sample can be reached is decided exactly, stage by stage from the end of the network: a stage
// needs to know of the later ones only how many devices and how many replicas they have together, since these say how
// many micro-batches are in flight before it. Per border between stages the pairs of both numbers that no other pair
// undercuts are kept. The least time is then found by bisection.
// The model and its costs: Tarnawski et al., Piper (NeurIPS 2021). Deciding a time instead of minimizing over all
// pairs, and the bound, are ours: 2,048 devices take milliseconds.

struct ParallelStage {
  std::vector<int> nodes;
  std::vector<int> choices;  // [node of the stage]
  int degree = 1;            // devices of a replica
  int64_t replicas = 1;
  int64_t in_flight = 1;  // micro-batches that a replica holds
  int64_t first_device = 0;
  double time = 0;          // per sample
  double memory_bytes = 0;  // of one device
};

struct ParallelResult {
  bool fits = false;
  std::vector<ParallelStage> stages;
  double time = 0;          // per sample, of the slowest stage
  double lower_bound = 0;   // no pipeline of such stages is faster
  bool is_optimal = false;  // when !fits: there is none
  std::string method;
};

/// The best pipeline found. Deterministic.
ParallelResult search_stages(const ParallelGraph& graph, Work& work);

}  // namespace mpc::place
