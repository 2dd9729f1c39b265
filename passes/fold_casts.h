#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// Normalizations read and write 16 bits themselves. A Cast of what one gives (y, or dx) to bf16 or f16 that stands
/// right after it becomes its `rounded` result; the f32 result stays where others read it. A Cast to f32 that only
/// gradients of normalizations read, as dy, is left out: they widen what they read. The bits are the same.
/// @pre stage local: before, a Cast may run beside its readers, so that a cut sends f32 only. Graphs of the same
/// structure stay so. O(N + E).
Graph fold_casts(Graph graph);

}  // namespace mpc
