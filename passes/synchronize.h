#pragma once

#include "compiler/plan/plan.h"

namespace mpc {

/// Adds the record and wait instructions that passes/order_queues.h asks for: a record right after its instruction, a
/// wait right before the one that needs it (before the send of a pair).
/// @pre plan_memory has run. O(instructions * queues + accesses log slices).
void synchronize(Plan& plan);

}  // namespace mpc
