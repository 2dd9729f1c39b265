#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/cost/parallel_graph.h"
#include "compiler/ir/graph.h"

namespace mpc::place {

/// Equal GPUs, so many to a node; links of nodes are slower than those within.
struct Machines {
  Device gpu;
  int64_t gpus = 1;
  int gpus_per_node = 8;
  double bytes_per_second_in_node = 0;
  double latency_in_node_s = 0;
  double bytes_per_second_between_nodes = 0;
};

/// A run of forward nodes between two places of the model that little crosses.
struct ModelBlock {
  std::string first;  // names of forward nodes
  std::string last;
  int nodes = 0;
  int64_t parameters = 0;
};

/// A model as the chain of blocks that pipelines of replicated and sharded stages are planned from, with what every
/// block costs with every tensor degree within a node, keeping its activations or computing them again.
struct ModelGraph {
  ParallelGraph graph;  // times in seconds per micro-batch; node i is block i
  std::vector<ModelBlock> blocks;
};

/// @param graph  in stage training (or canonical, to plan inference), of one micro-batch
/// Costs are those of compiler/cost/estimate.h for the operators of the step, forward and backward, divided as shard.h
/// says. Optimizer state is divided over the replicas (ZeRO-1). @throws Error(M046) for a model without a chain of
/// blocks.
ModelGraph model_graph(const Graph& graph, const Machines& machines, int64_t microbatches);

}  // namespace mpc::place
