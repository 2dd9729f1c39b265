#pragma once

#include <string_view>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

// Activations that are computed again in the backward pass instead of being kept for it.
//
// The forward nodes of a device are cut into blocks. What a block makes for itself alone is dropped; what a later block
// or another device reads is kept anyway and is what computing again begins from. A gradient node that reads a dropped
// value reads a copy of it: a clone of the node that made it, right before the first such reader, and clones of what
// that node reads as far as it is dropped, too. So one block at a time is back in memory. Clones are the same operators
// with the same operands (the mask of a Dropout is a function of its place in the step), so no bit changes. Sources:
// Chen et al., Training Deep Nets with Sublinear Memory Cost (2016), for blocks; Korthikanti et al., Reducing
// Activation Recomputation in Large Transformer Models (2022), for dropping only what is cheap to make again.

/// What the names of clones begin with.
inline constexpr std::string_view kRecomputeScope = "recompute/";

/// A choice of what is dropped.
struct Recomputation {
  std::vector<ValueId> dropped;      // ascending
  double seconds = 0;                // of computing again, per micro-batch, all devices together
  std::vector<int64_t> saved_bytes;  // [device] kept less, per micro-batch
};

/// Ways to keep less on the devices where `is_tight`, the cheapest first: from few cheap values to all, in 1 to 64
/// blocks.
/// @pre stage placed, of a training graph. O(N) for each way.
std::vector<Recomputation> recomputations(const Graph& graph, const Cluster& cluster,
                                          const std::vector<bool>& is_tight);

/// The graph in which gradient nodes read clones of the dropped values. @pre stage placed; `dropped` are results of
/// recomputations() for a graph of this structure. @post stage placed. O(N + E).
Graph recompute(const Graph& graph, const std::vector<ValueId>& dropped);

/// Is the node a clone that recompute() made?
bool is_recomputed(const Node& node);

}  // namespace mpc
