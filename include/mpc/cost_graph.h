#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mpc/namespace.h"

namespace mpc::v1 {

/// How a cost graph is split.
struct CostGraphOptions {
  /// Every stage is one run of the order of nodes; otherwise a device may have any set.
  bool contiguous = false;
  /// What may be spent, in seconds of a current core. It is counted in steps, so the answer does not depend on the
  /// machine; nothing: ten seconds, or for contiguous splits what the exact program needs (fifteen at most).
  std::optional<double> budget_seconds = {};
  /// CPU cores beside the GPUs, instead of the number in the file.
  std::optional<int> cpus = {};
};

/// What one device has, in the time unit of the graph.
struct CostGraphDevice {
  std::string name;  // "gpu:0", "cpu:0"
  int nodes = 0;
  double compute = 0;
  double received = 0;  // tensors made elsewhere, once each
  double sent = 0;      // tensors used elsewhere, once each
  double load = 0;      // the sum; a CPU core pays compute only
  double memory_bytes = 0;
  std::optional<double> capacity_bytes = {};  // nothing: not limited
};

/// A node of the graph and its device: GPUs are numbered first, then CPU cores.
struct CostGraphNode {
  int64_t id = 0;
  int device = 0;
};

/// A stage of a pipeline whose stages are replicated and sharded: replicas * degree devices from first_device on.
struct CostGraphStage {
  std::vector<int64_t> nodes;        // ids
  std::vector<std::string> choices;  // [node]: how it is computed, as the graph names it
  int degree = 1;                    // devices that share every node (tensor parallel)
  int64_t replicas = 1;              // that share the micro-batches (data parallel)
  int64_t in_flight = 1;             // micro-batches whose activations a replica holds
  int64_t first_device = 0;
  double time = 0;          // per sample
  double memory_bytes = 0;  // of one device
};

/// A split of a cost graph, or why there is none.
struct CostGraphSplit {
  std::string graph;
  std::string time_unit;
  bool contiguous = false;
  bool feasible = false;
  std::vector<CostGraphNode> nodes;
  std::vector<CostGraphDevice> devices;
  /// Of a graph of kind "piper", which has no `devices` rows: every node's device is the first of its stage.
  std::vector<CostGraphStage> stages;
  int64_t device_count = 0;
  double device_bytes = 0;  // memory of one; with stages
  double value = 0;         // the largest load; with stages: the time of a sample in the slowest
  double lower_bound = 0;   // no split of this kind is below
  bool optimal = false;     // proved: no split of this kind is better; when not feasible: there is none
  double seconds = 0;       // spent
  std::string algorithm;    // what found the split
  std::vector<std::string> notes;

  /// The JSON that `mpc partition --cost-graph --json` writes, feasible or not.
  std::string report_json() const;
  /// The same for people.
  std::string report_text() const;
};

/// Splits the graph of a JSON file over its devices so that the largest load is small.
/// @throws Error(M010, M012) for the file, Error(M066, M046, M051) for what stands in it, Error(M003) for options out
/// of range. That nothing fits is a result.
CostGraphSplit split_cost_graph(const std::string& path, const CostGraphOptions& options = {});

}  // namespace mpc::v1
