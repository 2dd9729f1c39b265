#pragma once

#include <optional>
#include <string_view>

#include "compiler/base/op_kind.h"
#include "compiler/ir/graph.h"

namespace mpc {

/// What a model of f32 computes in.
///   f32   what the model says, strictly
///   tf32  the same graph; matrix products and convolutions on GPUs may round their operands to 10 bits of mantissa
///   bf16  the graph of lower_precision(): parameters, gradients that are summed, and optimizer state stay f32
enum class Precision : uint8_t { f32, tf32, bf16 };

std::optional<Precision> parse_precision(std::string_view name);
std::string_view precision_name(Precision precision);

/// In what an op of a bf16 model computes.
enum class ComputeIn : uint8_t {
  bf16,      // always: products and convolutions, which accumulate in f32 and write bf16
  operands,  // bf16 when every f32 operand that changes between steps' inputs already is bf16; else f32
  f32,       // always: normalizations, exponentials, sums over many elements, losses
};
/// The table: one row per op that is not f32.
ComputeIn compute_in(OpKind op);

/// The graph with bf16 in place of f32 where compute_in() says so, and Casts between the two. Parameters, constants and
/// results of the model keep their types: they are cast where they are read. Before differentiate, so that gradients
/// follow. @pre forward nodes only. O(N + E).
Graph lower_precision(const Graph& graph);

}  // namespace mpc
