#pragma once

#include <string>

#include "compiler/ir/graph.h"
#include "compiler/ops/gradient.h"

namespace mpc {

// Reverse-mode differentiation of a whole graph, before placement.
//
// Nodes are visited once, in descending order; a value's gradient is the sum of the contributions of its users, added
// in descending order of the users, so the order of every sum is fixed by the graph alone. Only gradients that lead to
// a trainable parameter are built. A gradient of what is the same in every micro-batch (a parameter, or its transpose)
// is summed over the micro-batches by its reader (GradAccumulate into a state that lives there); the sums of several
// readers are added once per step. Source: Griewank and Walther, Evaluating Derivatives, 2nd ed., section 3.2 (reverse
// mode).

struct DifferentiateOptions {
  /// Parameters whose name matches (ECMAScript regex, whole name) are not trained. Empty: none.
  std::string frozen;
  /// What d(loss)/d(loss) is: an f32 scalar that is the same in all micro-batches. Invalid: 1.
  ValueId seed = {};
};

/// Appends d(loss)/d(parameter) for every trainable parameter that the loss depends on. Appended nodes have phase
/// input_grad or weight_grad, the differentiated node as anchor, and its origin. Fills graph.gradients.
/// @pre graph.loss is valid.   @post stage training. Complexity O(N + E).
/// @throws Error(M044) naming every node on the way that has no gradient; Error(M046) when no parameter is trainable.
/// `choices`: what depended on shapes is recorded there, or replayed (compiler/ops/gradient.h).
Graph differentiate(const Graph& graph, const DifferentiateOptions& options, ShapeChoices* choices = nullptr);

}  // namespace mpc
