#pragma once

#include <vector>

#include "compiler/plan/plan.h"

// Views: results that are their operand's bytes with another shape. A node that hands on bytes may have its output in
// the very slice range of its operand while both are in use; then it moves nothing, and the instruction only says that
// the bytes may be read as the output. In a range of its own the output is a copy.

namespace mpc {

/// Is output 0 of the operator operand 0, byte for byte?
bool hands_on_bytes(OpKind op);

/// Per value, the value that made its bytes: itself, or what the nodes before it that hand on bytes began with. An
/// instance of the one holds the bytes of the same instance of the other. What holds from step to step, sums of
/// micro-batches, and results of another rate, type or size count as made anew. O(values + nodes).
/// @pre operands of nodes are in range.
std::vector<PlanIndex> origins_of_bytes(const Plan& plan);

/// Does the instruction run a node that hands on bytes, with operand and result of one origin in one range? Then it
/// writes nothing. @pre its slices and its node are in range.
bool is_view(const Plan& plan, const std::vector<PlanIndex>& origins, const Instruction& instruction);

}  // namespace mpc
