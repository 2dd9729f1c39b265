#pragma once

#include "compiler/ir/graph.h"

namespace mpc {

/// One ScaledDotProductAttention in place of the nodes that models spell it with: MatMul(Softmax(scale q k^T [masked]),
/// v) over (batch, heads, sequence, width), where
///   - the scale is a scalar that multiplies or divides q, k or the product,
///   - the mask, if any, is constant and causal: by Where or by Add, with what it adds or puts at most -10^4,
///   - nothing else reads what lies between, and the graph does not give it back.
/// Other attention is left as it is. Transposes that split and join the heads go, since the op takes them as they lie;
/// so does the Split of one projection to q, k and v, all three of which the op then reads as one operand.
/// For forward graphs in f32 that are lowered to 16 bits next: kernels of one pass over the scores have 16 bits, and
/// composed nodes keep f32's bits. O(N + E).
Graph raise_attention(const Graph& graph);

}  // namespace mpc
