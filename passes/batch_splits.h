#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// Joins the Splits of a device that part the summed gradients of packed weights (passes/pack_projections) along their
/// last axis: one launch per step for all of one rank. The joint node stands where the last of them did; the results
/// are read after that, by the optimizer. The bits are the same.
/// @pre stage local. Graphs of the same structure stay so. O(N + E).
Graph batch_splits(Graph graph);

}  // namespace mpc
