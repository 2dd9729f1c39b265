#pragma once

#include <vector>

#include "compiler/ir/graph.h"

namespace mpc {

/// The gradients of a weight and of its bias read the same tensor: a ReduceSum over its rows becomes the second result
/// of the Gemm that multiplies it, where both belong to one forward node and nobody needs one before the other is made.
/// Sums are made as they are alone. No device can come between: pins and assignments speak of forward nodes.
/// @pre `graphs` have the same structure: those of the sizes of micro-batch; they are changed alike. O(N + E).
std::vector<Graph> fuse_bias_gradients(const std::vector<const Graph*>& graphs);

}  // namespace mpc
