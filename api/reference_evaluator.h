#pragma once

#include "compiler/ops/evaluate.h"

namespace mpc {

/// Evaluates an op when compiling with its reference kernel (constant folding). Holds nothing: one may serve many
/// threads.
class ReferenceEvaluator : public Evaluator {
 public:
  /// @throws Error(M033) when the content of an operand is out of range.
  std::vector<Literal> evaluate(OpKind op, const Attributes& attributes,
                                const std::vector<std::optional<Literal>>& inputs,
                                const std::vector<TensorType>& outputs) const override;
};

}  // namespace mpc
