#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// What a graph makes of parameters alone by moving and rounding their elements becomes parameters with a recipe
/// (compiler/base/weight_recipe.h): sessions make them once, when they load the model, instead of in every step. Taken
/// are Casts from f32 to 16 bits, one Transpose of each parameter, one Concat, one Transpose of what that makes, a
/// Reshape at the end, and transfers of all that. The bits are the same, and so is the memory at the moment when the
/// results were made; where nothing else reads the originals, it is less.
/// @pre stage local, and no step replaces a parameter (inference). Graphs of the same structure stay so. O(N + E).
Graph fold_weights(const Graph& graph);

/// Do nodes of this operator become part of a recipe, where they read weights alone?
bool may_fold(OpKind op);

}  // namespace mpc
