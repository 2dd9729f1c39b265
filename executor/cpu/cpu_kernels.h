#pragma once

#include "executor/backend.h"

namespace mpc::cpu {

/// The fastest CPU kernel for a node, ready to run; or none, with the reason of every kernel that declined (then the
/// reference kernel carries the node out). The choice depends on the node alone, never on the device or the machine's
/// load.
/// @pre the node passed type inference: operand shapes fit and attributes are canonical.
executor::KernelOrReason find_kernel(const executor::NodeSpec& node);

/// Is there any kernel for the op faster than the reference, whatever the shapes it takes? For `mpc ops`.
bool has_fast_kernel(OpKind op);

}  // namespace mpc::cpu
