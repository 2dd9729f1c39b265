#pragma once

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

/// Bytes a node reads and writes, each operand once.
int64_t operand_bytes(const Graph& graph, NodeId id);
/// FLOPs of a node (ops' own counts).
double node_flops(const Graph& graph, NodeId id);
/// The type of numbers a node computes in: that of its last float output, f32 when it has none.
DType node_dtype(const Graph& graph, NodeId id);
/// The launch, plus what a measured profile says of the node's kernel (compiler/cost/profile.h); without one the
/// roofline: the larger of FLOPs over the arithmetic rate and operand bytes over the memory rate.
double node_seconds(const Graph& graph, NodeId id, const Device& device);
/// Latency plus bytes over bandwidth.
double transfer_seconds(int64_t bytes, const Link& link);

}  // namespace mpc
