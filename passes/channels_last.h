#pragma once

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

// Convolutions on GPUs that multiply in 16 bits or TF32 read and write images (N, H, W, C), which is what tensor cores
// take; of (N, C, H, W) libraries make such copies around every one of them. So a convolution gets the attribute
// `channels_last` (compiler/base/channels_last.h) and values of four dimensions with the channels as the last one, and
// what reads its result follows, as far as it can: pools get the attribute, batch normalization reads images as rows of
// channels, elementwise operators, reductions, Concat and transfers read them as they are. Transposes stand where the
// chain begins and ends, and around weights larger than 1 x 1: after the Cast that rounds a weight, once per step, and
// before its gradient is summed. Where a transpose would only move dimensions of 1 it is a Reshape.
//
// What a node reads depends on nodes before it and on the kind of its device, not on how many devices there are; so
// batch normalization, whose sums are added in the order of the channels, gives the same bits on k devices as on one.

/// The graph with channels last where that holds. @pre stage local. O(N + E).
Graph channels_last(Graph graph, const Cluster& cluster);
/// The same for a smaller micro-batch. What is chosen is read off `main`, the graph of the larger ones, which has the
/// same structure; so have the results.
Graph channels_last(Graph graph, const Graph& main, const Cluster& cluster);

}  // namespace mpc
