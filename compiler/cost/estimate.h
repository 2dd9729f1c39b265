#pragma once

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

/// Bytes a node reads and writes, each operand once.
int64_t operand_bytes(const Graph& graph, NodeId id);
/// FLOPs of a node (ops' own counts).
double node_flops(const Graph& graph, NodeId id);
/// Roofline: the larger of FLOPs over the arithmetic rate and operand bytes over the memory rate, plus the launch.
double node_seconds(const Graph& graph, NodeId id, const Device& device);
/// Latency plus bytes over bandwidth.
double transfer_seconds(int64_t bytes, const Link& link);

}  // namespace mpc
