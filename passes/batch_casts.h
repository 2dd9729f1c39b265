#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// Joins the Casts of a device that round parameters to the same 16-bit type into one: one launch per step where there
/// was one per parameter. The joint node stands where the first of them did, so its results are held from there on.
/// That holds no more when memory is full, in the backward pass: a cast joins when the backward pass reads its result,
/// or when it is small, as that of a bias is. A Concat of parameters whose result is only rounded (packed weights) is
/// taken in: each part is rounded to its place. The bits are the same.
/// @pre stage local. Graphs of the same structure stay so. O(N + E).
Graph batch_casts(Graph graph);

}  // namespace mpc
