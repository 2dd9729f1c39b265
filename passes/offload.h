#pragma once

#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

// Activations that wait in host memory between the forward and the backward pass.
//
// Host memory is one more device, with links to the others and no nodes of its own. A value that is offloaded is sent
// there by a Transfer when it has been made, and its gradient nodes read what a second Transfer brings back. Copies
// change no bit. Where the two copies stand in the order of a step is decided when that order is known
// (passes/overlap_offload.h). Source: Rhu et al., vDNN (MICRO 2016).

/// The host memory that a plan may use when nobody says: less than what machines with GPUs have.
inline constexpr int64_t kAssumedHostBytes = int64_t{64} << 30;

/// The cluster with `bytes` of host memory as its last device.
Cluster with_host_memory(const Cluster& cluster, int64_t bytes);

/// A value that may wait in host memory.
struct Offloadable {
  ValueId value;
  DeviceId device;
  int64_t bytes = 0;   // per micro-batch
  double seconds = 0;  // to the host and back, per micro-batch
};

/// What the devices keep from forward nodes (or receive from those of other devices) for their gradient nodes, in the
/// order in which it is worth sending: first what takes longer than the latency of the link, and of that first what is
/// made first, since it is read last and most work lies between.
/// @pre stage local; `cluster` has host memory. O(N + E).
std::vector<Offloadable> offloadable_values(const Graph& graph, const Cluster& cluster);

/// The graph in which `values` wait in host memory, the last device of `cluster`. Each gradient node on a value's
/// device reads the copy that came back.
/// @pre stage local; `values` are offloadable in a graph of this structure. @post stage local. O(N + E).
Graph offload(const Graph& graph, const std::vector<ValueId>& values, const Cluster& cluster);

}  // namespace mpc
