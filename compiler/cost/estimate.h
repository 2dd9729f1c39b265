#pragma once

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

/// Bytes a node reads and writes, each operand once.
int64_t operand_bytes(const Graph& graph, NodeId id);
/// FLOPs of a node (ops' own counts).
double node_flops(const Graph& graph, NodeId id);
/// What a node computes in on a device that rounds to TF32, or not.
Arithmetic node_arithmetic(const Graph& graph, NodeId id, bool rounds_to_tf32);
/// The launch, plus what a measured profile says of the node's kernel (compiler/cost/profile.h); without one the
/// roofline: the larger of FLOPs over the arithmetic rate and operand bytes over the memory rate, and what a CPU does to
/// widen operands of 16 bits.
double node_seconds(const Graph& graph, NodeId id, const Device& device);
/// Latency plus bytes over bandwidth.
double transfer_seconds(int64_t bytes, const Link& link);

}  // namespace mpc
