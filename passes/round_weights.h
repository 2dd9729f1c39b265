#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// Parameters in f32 that are read through Casts to one type of 16 bits alone become parameters of that type: sessions
/// round them once, when they load them, instead of in every step, and devices hold the 16 bits alone. For inference;
/// what an optimizer updates stays in f32. The bits are the same. Rows (biases) stay: products that add in f32 read
/// them as they are (passes/fuse_products.h). So do parameters that are also read in f32, and those that are put side
/// by side before they are rounded (passes/pack_projections.h). O(N + E).
Graph round_weights(const Graph& graph);

}  // namespace mpc
