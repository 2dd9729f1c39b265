#pragma once

#include "compiler/plan/plan.h"

namespace mpc::api {

/// Infers every node of a plan again, in every variant, and compares with what the plan states: operands, attributes,
/// outputs and workspace. The plan's own checker knows no operators, and kernels rely on what inference has proved, so
/// no plan may run that this has not seen. @pre check_plan. O(nodes + operands).
/// @throws Error(M061) naming the node.
void check_node_types(const Plan& plan);

}  // namespace mpc::api
