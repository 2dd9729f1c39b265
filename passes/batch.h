#pragma once

#include <functional>
#include <vector>

#include "compiler/ir/rewriter.h"

namespace mpc {

/// Nodes that one node takes the place of.
struct Batch {
  std::vector<NodeId> members;  // ascending
  NodeId place;                 // the member where the joint node stands
};

/// The graph with one node for each batch, which `write` appends (by append_joint); every other node is copied, or
/// where there is no batch the graph itself. O(N + E).
Graph write_batches(Graph graph, const std::vector<Batch>& batches,
                    const std::function<void(Rewriter&, const Batch&)>& write);

/// Appends the joint node of a batch: with operator, name, origin, phase, anchor, device and rate of `like`, a member.
/// @param inputs values of the graph that is made. @param outputs values of the source, which the results stand for.
void append_joint(Rewriter& rewriter, const Batch& batch, NodeId like, std::vector<ValueId> inputs,
                  Attributes attributes, const std::vector<ValueId>& outputs);

}  // namespace mpc
