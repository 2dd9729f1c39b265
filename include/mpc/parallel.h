#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mpc/cluster.h"
#include "mpc/compile.h"
#include "mpc/model.h"
#include "mpc/namespace.h"

namespace mpc::v1 {

/// Equal GPUs in nodes. Within a node they are linked as the cluster says, between nodes by slower links.
struct NodeOptions {
  int gpus_per_node = 8;
  double bytes_per_second = 50e9;  // of a GPU to another node: a 400 Gbit/s adapter
};

/// A stage of a pipeline: replicas * degree devices from first_device on.
struct ParallelStage {
  std::string first;  // names of nodes: what it computes
  std::string last;
  int blocks = 0;
  int recomputed = 0;  // blocks whose activations are computed again in the backward pass
  int64_t parameters = 0;
  int degree = 1;         // devices that share every node (tensor parallel)
  int64_t replicas = 1;   // that share the micro-batches (data parallel)
  int64_t in_flight = 1;  // micro-batches whose activations a replica holds
  int64_t first_device = 0;
  double seconds = 0;       // per micro-batch
  double memory_bytes = 0;  // of one device
};

/// The best pipeline of replicated and sharded stages, or why there is none. mpc plans these; it does not run them yet.
struct ParallelPlan {
  bool feasible = false;
  std::vector<ParallelStage> stages;
  int64_t device_count = 0;
  int64_t device_bytes = 0;
  int64_t microbatches = 0;
  int64_t parameters = 0;
  int blocks = 0;
  double seconds = 0;      // per micro-batch, in the steady state: of the slowest stage
  double lower_bound = 0;  // no such pipeline is faster
  bool optimal = false;    // proved; when not feasible: there is none
  double planning_seconds = 0;
  std::vector<std::string> notes;

  std::string report_json() const;
  std::string report_text() const;
};

/// Plans a model over many equal GPUs: how many stages, and for each how many replicas, over how many devices of a node
/// every operator is divided, and what is computed again. A micro-batch is options.bindings' batch divided by
/// options.microbatches. Costs are those of the cost model; docs/cli.md says what is assumed.
/// @throws Error as compile does; Error(M046) for devices that are not equal, pins, and models without blocks.
ParallelPlan plan_parallel(const Model& model, const Cluster& cluster, const CompileOptions& options,
                           const NodeOptions& nodes = {});

}  // namespace mpc::v1
