#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/op_kind.h"
#include "compiler/ir/graph.h"

namespace mpc {

/// What a model of f32 computes in.
///   f32   what the model says, strictly
///   tf32  the same graph; matrix products and convolutions on GPUs may round their operands to 10 bits of mantissa
///   bf16, f16  the graph of lower_precision(): parameters, gradients that are summed, and optimizer state stay f32.
///         f16 has 10 bits of mantissa instead of 7, and a range of 6e-8 to 65504: training scales the loss
///         (passes/loss_scale.h)
enum class Precision : uint8_t { f32, tf32, bf16, f16 };

std::optional<Precision> parse_precision(std::string_view name);
std::string_view precision_name(Precision precision);
std::vector<std::string> precision_names();
/// The 16-bit type that products are computed in, if that is what the precision says.
std::optional<DType> low_dtype(Precision precision);

/// In what an op of a bf16 or f16 model computes.
enum class ComputeIn : uint8_t {
  low,       // always in 16 bits: products and convolutions, which accumulate in f32 and write 16 bits
  operands,  // in 16 bits when every f32 operand that changes between steps' inputs already is; else f32
  f32,       // always: normalizations, exponentials, sums over many elements, losses
};
/// The table: one row per op that is not f32.
ComputeIn compute_in(OpKind op);

/// The graph with `low` in place of f32 where compute_in() says so, and Casts between the two. Parameters, constants
/// and results of the model keep their types: they are cast where they are read. Before differentiate, so that
/// gradients follow. @pre forward nodes only. O(N + E).
/// @pre `low` is bf16 or f16.
Graph lower_precision(const Graph& graph, DType low);

}  // namespace mpc
