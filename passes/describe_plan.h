#pragma once

#include "passes/back_half.h"

namespace mpc {

/// What a plan says of itself beside its instructions: its inputs and outputs by name and role, what was predicted, the
/// device that a stream waits for, and warnings. @throws Error M045 for an output whose micro-batches cannot be put
/// together.
void describe_plan(Plan& plan, const Attempt& attempt, const FrontGraphs& graphs, const PlanOptions& options);

}  // namespace mpc
