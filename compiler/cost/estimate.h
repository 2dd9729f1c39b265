#pragma once

#include <cstdint>
#include <span>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

/// Bytes of a node's operands and results, each once: what must be there when it runs.
int64_t operand_bytes(const Graph& graph, NodeId id);
/// Bytes that an operator reads and writes. Of a table, or of what is sliced, that is as much as its result has; a
/// Reshape's result is its operand (compiler/plan/views.h), and the few that are copied are not counted.
/// @param bytes_of_inputs  those that are present, in their order
int64_t moved_bytes(OpKind op, std::span<const int64_t> bytes_of_inputs, int64_t bytes_of_outputs);
/// FLOPs of a node (ops' own counts).
double node_flops(const Graph& graph, NodeId id);
/// What a node computes in on a device that rounds to TF32, or not.
Arithmetic node_arithmetic(const Graph& graph, NodeId id, bool rounds_to_tf32);
/// The launch, plus what a measured profile says of the node's kernel (compiler/cost/profile.h); without one the
/// roofline: the larger of FLOPs over the arithmetic rate and operand bytes over the memory rate, and what a CPU does
/// to widen operands of 16 bits.
/// @param parts  equal parts that as many devices share the kernel's work in
double node_seconds(const Graph& graph, NodeId id, const Device& device, double parts = 1);
/// Latency plus bytes over bandwidth.
double transfer_seconds(int64_t bytes, const Link& link);

}  // namespace mpc
