#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"
#include "passes/place/kernel_gaps.h"
#include "passes/place/refine.h"
#include "passes/schedule/held_microbatches.h"

namespace mpc {

using place::KernelRefusal;
using place::Objective;
using place::Pin;

/// What a placement for latency is annealed for, unless somebody asks for more.
inline constexpr double kLatencyBudget = 0.4;

struct PlaceOptions {
  Objective objective = Objective::throughput;
  std::vector<Pin> pins;
  int microbatches = 1;
  /// In training: of how many micro-batches the stages hold activations, which the schedule says.
  HeldMicrobatches held = {};
  /// What the planner's memory estimate must be raised by on each device (found by planning memory exactly); empty:
  /// zero.
  std::vector<int64_t> extra_bytes;
  /// The devices in the order in which stages take them; empty: whichever is best. What the estimate missed belongs to
  /// a stage: devices that are alike keep their order, or the next attempt would be the same stages on others.
  std::vector<int> device_order;
  /// What backends cannot run; blocks with such nodes go where they can (see pin_kernel_gaps).
  KernelRefusal refusal;
  /// A first good placement only.
  bool is_quick = false;
  /// The cluster's devices are parts of devices (passes/chunks.h): stages take them in their order.
  bool is_of_parts = false;
  /// In training, too, transfers are made beside the work: as many micro-batches are in flight as that needs. Only
  /// where devices have copy engines.
  bool overlaps_transfers = false;
  double budget_s = kLatencyBudget;  // of annealing for latency, in counted steps
};

/// The device of every node, and what the decision was worth.
struct Placement {
  std::vector<DeviceId> device_of_node;
  double objective_value = 0;  // see value_of (passes/place/refine.h): seconds, or a share of capacity
  double lower_bound = 0;
  double largest_work_s = 0;             // of a device per micro-batch, without transfers
  std::vector<int64_t> estimated_bytes;  // [device]
  std::vector<int> device_order;         // of the stages; devices that have none come last
  int64_t overflow_bytes = 0;            // by which the estimate exceeds the capacities: nothing that fits was found
  std::vector<std::string> notes;
};

std::optional<Objective> parse_objective(std::string_view name);
std::string_view objective_name(Objective objective);

/// Chooses a device for every node. Nodes with an anchor follow it. Throughput uses every device of the cluster (each
/// gets at least one block when there are enough blocks), latency and devices as many as help.
/// @throws Error(M002, M003) for pins that match nothing, Error(M046) for nodes that no device has a kernel for.
Placement place_nodes(const Graph& graph, const Cluster& cluster, const PlaceOptions& options);

/// Fills in what a placement that place_nodes did not make for this cluster is worth on it: its objective and bound.
void judge_placement(const Graph& graph, const Cluster& cluster, const PlaceOptions& options, Placement& placement);

/// The graph with the devices of `placement` written into its nodes. @post stage placed.
Graph apply_placement(const Graph& graph, const std::vector<DeviceId>& device_of_node);

}  // namespace mpc
