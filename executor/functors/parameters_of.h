#pragma once

#include "compiler/base/attributes.h"
#include "compiler/base/op_kind.h"
#include "executor/functors/parameters.h"

namespace mpc::functors {

/// The parameters of a function from canonical attributes of the op, or of a UnaryGrad of that function.
inline Parameters<double> parameters_of(OpKind function, const Attributes& attributes) {
  switch (function) {
    case OpKind::Celu:
    case OpKind::Elu:
    case OpKind::LeakyRelu:
    case OpKind::ThresholdedRelu:
      return {attributes.number("alpha"), 0};
    case OpKind::Clip:
      return {attributes.number("min"), attributes.number("max")};
    case OpKind::Gelu:
      return {attributes.text("approximate") == "tanh" ? 1.0 : 0.0, 0};
    case OpKind::HardSigmoid:
      return {attributes.number("alpha"), attributes.number("beta")};
    case OpKind::Selu:
      return {attributes.number("alpha"), attributes.number("gamma")};
    case OpKind::Shrink:
      return {attributes.number("bias"), attributes.number("lambd")};
    default:
      return {};
  }
}

}  // namespace mpc::functors
