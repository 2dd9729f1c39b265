#pragma once

#include "compiler/ir/graph.h"
#include "passes/fuse.h"

namespace mpc {

/// Three projections of one tensor to the q, k and v of an attention become one product by their weights side by side,
/// which the attention reads as one operand: one launch instead of three, forward and for either gradient, and the
/// tensor is read once. Where
///   - each is MatMul, or MatMul and Add of a row, then the Reshape that parts the heads, all of one shape,
///   - their weights and rows are made of parameters alone, so that they are put together once per step,
///   - nothing else reads what lies between, and neither pins nor an assignment send the nodes apart.
/// A gradient of x is then one sum over all three, rounded once; a weight's gradient is parted once per step.
/// For forward graphs in f32, after raise_attention and before lower_precision: in f32 attention stays composed.
/// O(N + E). @throws Error(M003) for a pin that is no regular expression.
Graph pack_projections(const Graph& graph, const FusionLimits& limits);

}  // namespace mpc
