#pragma once

#include "compiler/plan/plan.h"

namespace mpc {

/// Adds the record and wait instructions that order every two instructions of different queues of which one writes bytes that the other
/// reads or writes; none where queue order, earlier waits or send/recv pairs already do (vector clocks).
/// A record stands right after its instruction, a wait right before the one that needs it (before the send of a pair).
/// @pre plan_memory has run. O(instructions * queues + accesses log slices).
void synchronize(Plan& plan);

}  // namespace mpc
