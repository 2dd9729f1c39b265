#pragma once

#include <vector>

#include "compiler/base/literal.h"
#include "compiler/ops/op_def.h"

namespace mpc {

/// Computes an op on known operands when compiling (constant folding, shape arithmetic). The compiler has no kernels of
/// its own: whoever calls it brings an evaluator (api/ gives it the reference kernels).
class Evaluator {
 public:
  virtual ~Evaluator() = default;
  /// Results of the given types. @pre the types come from infer_types with these attributes and operands; absent
  /// optional operands are empty optionals.
  virtual std::vector<Literal> evaluate(OpKind op, const Attributes& attributes,
                                        const std::vector<std::optional<Literal>>& inputs,
                                        const std::vector<TensorType>& outputs) const = 0;
};

}  // namespace mpc
