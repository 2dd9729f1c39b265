#pragma once

#include "compiler/ir/graph.h"
#include "compiler/ops/op_def.h"

namespace mpc::ops {

/// The attribute `to` of operators that accumulate more exactly than their operands are: "f32" leaves a result of
/// 16-bit operands unrounded. Gradients that are summed over micro-batches have it (passes/differentiate).
AttributeSpec widened_attribute();
/// The dtype of the result of operands of `dtype`. Fails with M031 for any other widening.
DType widened(const InferContext& context, DType dtype);
/// The gradient `dy` of a widened result in the type of operand 0.
ValueId narrowed(GradientContext& context, ValueId dy);

}  // namespace mpc::ops
