#pragma once

#include <vector>

#include "compiler/ir/graph.h"
#include "passes/fuse.h"

namespace mpc {

// A MatMul or Gemm takes in what elementwise operators do with its result, so that libraries can do it before they
// store: a row (a bias) is added, then a tensor of the result's shape (a residual, another gradient), then Relu or Gelu
// by tanh. Where the product is the gradient of what Gelu by tanh gave, it takes in Gelu's own gradient instead. Each
// rounds as it does alone. Where a product of 16 bits is cast to f32 before a tensor is added, it takes in the Cast,
// too, and reads the row in f32. What a product takes in reads its result alone, through one Reshape that keeps the
// columns or none, and is of its phase and rate. The product then stands where the last of them did; where its operands
// would be kept for that longer than they are worth, it stays where it was, if all that is added is there before.
//
// The gradient of a layer or RMS normalization takes in an addition in the same way: the gradient that passes beside
// it.
//
// A gradient that is added up runs where its last product does, instead of where the value was made: across a cut one
// sum travels instead of its parts. Sums of weights stay where they are.

/// The graphs with one product for each group, with the name and origin of its last node. O(N + E).
/// @pre `graphs` have the same structure: those of the sizes of micro-batch; they are changed alike.
/// @throws Error(M003) for a pin that is no regular expression.
std::vector<Graph> fuse_products(const std::vector<const Graph*>& graphs, const FusionLimits& limits);

}  // namespace mpc
