#pragma once

#include "compiler/plan/plan.h"

namespace mpc {

/// Proves that a plan can be executed safely and computes what its nodes say. Shares no code with the passes that make
/// plans. What it proves:
///  - ids and indices are in range, names unique, types of copies and in-place updates agree, byte sizes recomputed
///  from
///    shapes; slices aligned, inside their arena; arena within the device's capacity; what is never shared is not;
///  - every node runs exactly once per micro-batch (or per step) on its device; micro-batches ascend for nodes that
///  update
///    in place;
///  - every operand is the slice of that value for that micro-batch on that device;
///  - sends and recvs are adjacent, of the same transfer and micro-batch, on the queues of their devices; every
///  transfer
///    has a link and a consumer;
///  - every input is fed once per instance and device that has a slice of it, every output fetched once per instance;
///  - each event is recorded once, before every wait for it in the total order, on another queue;
///  - vector clocks: each read finds the instance it expects and happens after its write, and each write happens after
///  every
///    access to what it overlaps (an output may take the bytes of an input only where ops.def allows it); at the end of
///    the step parameters, states and gradients hold what they should;
///  - costs are finite and not negative.
/// What it does not prove: that a node's operand types and attributes fit its operator (the plan knows no operators;
/// api/check_types.h does).
/// O(instructions * queues + slices log slices).
/// @throws Error(M061) naming the first violation, with node, micro-batch and device; Error(M062) for another version;
/// Error(M051) beyond the limits on queues and events.
void check_plan(const Plan& plan);

}  // namespace mpc
