#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// Joins the optimizer's nodes of a device that have the same attributes, dtype and scalars into one, which updates all
/// their tensors: one launch per step where there was one per parameter. The joint node stands where the last of them
/// did; nodes whose results somebody reads stay alone. The bits are the same, since tensors do not touch each other.
/// @pre stage local. Graphs of the same structure stay so. O(N + E).
Graph batch_updates(Graph graph);

/// Is it an operator that batch_updates joins?
bool is_batched(OpKind op);

}  // namespace mpc
