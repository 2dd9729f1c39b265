#pragma once

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"

namespace mpc {

/// A Gemm that makes the gradient of a weight, in f32, adds it to the sum over the micro-batches itself, where both are
/// on one CUDA device: GradAccumulate takes its factors (compiler/ops/training.cpp). A product that is stored and read
/// again to be added costs a pass over all weights per micro-batch. The bits are the same: the product is complete, in
/// f32, before it is added. CPU devices, whose products do not add, keep two nodes. @pre stage local, and several
/// micro-batches: the only one of a step makes its gradient where the sum is to be. Graphs of the same structure stay
/// so. O(N + E).
Graph fuse_accumulations(Graph graph, const Cluster& cluster);

}  // namespace mpc
