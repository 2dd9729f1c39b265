#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compiler/base/json.h"

namespace mpc {

// A graph of measured costs whose nodes may be computed in several ways: split over more or fewer devices (tensor
// parallel), keeping their activations or computing them again in the backward pass. What a pipeline of replicated
// stages is planned from. Source of the format and the costs: Tarnawski et al., Piper (NeurIPS 2021).

/// One way to compute a node, on each of the devices that share it.
struct ParallelChoice {
  std::string name;                 // "vanilla", "activation recomp"
  double time = 0;                  // forward and backward of one sample
  double parameter_bytes = 0;       // reduced over the replicas once per step
  double bytes_per_microbatch = 0;  // of every micro-batch in flight
  double fixed_bytes = 0;
  double bytes_over_replicas = 0;  // divided among the replicas: optimizer state that each keeps a part of (ZeRO-1)
  std::vector<double> sync_in;   // [in-edge of the node]: bytes beside the tensor's own, when the edge enters the stage
  std::vector<double> sync_out;  // [out-edge of the node]: the same when it leaves
};

struct ParallelEdge {
  int from = 0;
  int to = 0;
  double bytes = 0;
};

struct ParallelNode {
  int64_t id = 0;                                    // as the file names it
  std::vector<std::vector<ParallelChoice>> choices;  // [degree]; empty: cannot be split that way
  std::vector<int> in;                               // edges
  std::vector<int> out;
};

struct ParallelGraph {
  std::string name;
  std::string time_unit;
  std::vector<int> degrees;  // tensor degrees that any node has, ascending
  std::vector<ParallelNode> nodes;
  std::vector<ParallelEdge> edges;  // of an acyclic graph
  int64_t devices = 0;
  double memory_bytes = 0;    // of a device
  double bytes_per_time = 0;  // of every link
  int64_t microbatches = 0;   // samples of a step
};

/// Is this a graph of kind "piper"?
bool is_parallel_graph(const Json& json);

/// Reads such a graph (docs/cli.md has the format). `where` names the file in messages. O(N + E) choices.
/// @throws Error(M066) naming the place for a malformed graph, Error(M051) beyond a limit.
ParallelGraph parse_parallel_graph(const Json& json, const std::string& where);

}  // namespace mpc
