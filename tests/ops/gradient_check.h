#pragma once

#include <optional>
#include <string>

#include "tests/ops/sample.h"

namespace mpc::test {

/// Compares the gradient rule of a sample's op with central finite differences, in f64.
///
/// The loss is sum_i w_i * y_i over the float results, with fixed weights w in [0.5, 1.5). The rule's graph is run with
/// reference kernels; then every operand that may have a gradient is moved by +-h element by element. The error
/// ||rule - differences|| / ||differences|| must be within the sample's gradient_tolerance. A rule that is asked for
/// one gradient alone must give the same bits as when it is asked for all.
/// @return what is wrong, or nothing.
std::optional<std::string> check_gradient(const samples::Sample& sample);

/// Does the sample ask for the check, and can it be made (a differentiable op, all float operands f32)?
bool has_gradient_check(const samples::Sample& sample);

/// Is the op still defined when all f32 operands of the sample are f64?
bool takes_f64(const samples::Sample& sample);

}  // namespace mpc::test
