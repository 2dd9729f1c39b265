#pragma once

#include <vector>

#include "compiler/ir/graph.h"
#include "passes/fuse.h"

namespace mpc {

/// Products read transposed operands where they lie, and give transposed results at once: a Transpose of the last two
/// dimensions whose readers are all MatMul or Gemm becomes their transA or transB, and one that alone reads a product
/// becomes the product of its operands in the other order, each transposed. Sums over the inner dimension have the same
/// order. A Transpose that pins or an assignment send elsewhere than its readers stays. O(N + E).
/// @pre `graphs` have the same structure: those of the sizes of micro-batch; they are changed alike.
/// @throws Error(M003) for a pin that is no regular expression.
std::vector<Graph> fold_transposes(const std::vector<const Graph*>& graphs, const FusionLimits& limits);

}  // namespace mpc
