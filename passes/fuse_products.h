#pragma once

#include <optional>
#include <vector>

#include "compiler/ir/graph.h"
#include "passes/fuse.h"

namespace mpc {

// A MatMul or Gemm takes in what elementwise operators do with its result, so that libraries can do it before they
// store: a row (a bias) is added, then a tensor of the result's shape (a residual, another gradient), then Relu or Gelu
// by tanh. Each rounds as it does alone. What a product takes in reads its result alone, through one Reshape that keeps
// the columns or none, and is of its phase and rate.
//
// The gradient of a layer or RMS normalization takes in an addition in the same way: the gradient that passes beside
// it.
//
// A gradient that is added up runs where its last product does, instead of where the value was made: across a cut one
// sum travels instead of its parts. Sums of weights stay where they are.

/// One fused product. Ids are of the graph that is fused.
struct ProductGroup {
  NodeId product;
  NodeId reshape;               // between product and the rest; often invalid
  NodeId last;                  // names the group
  std::vector<NodeId> members;  // ascending: product, reshape and what follows
  ValueId row;                  // these two may be invalid
  ValueId whole;
  std::optional<OpKind> activation;
};

/// @pre `graphs` have the same structure: those of the sizes of micro-batch. O(N + E).
/// @throws Error(M003) for a pin that is no regular expression.
std::vector<ProductGroup> product_groups(const std::vector<const Graph*>& graphs, const FusionLimits& limits);

/// The graph with one product for each group, in the place and with the name and origin of its last node. O(N + E).
Graph fuse_products(const Graph& graph, const std::vector<ProductGroup>& groups);

}  // namespace mpc
