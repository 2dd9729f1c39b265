#pragma once

#include <cstdint>
#include <vector>

#include "compiler/plan/plan.h"

namespace mpc {

// Copies to and from host memory should run beside the work of the device. A queue of a link begins a copy as soon as
// the bytes that it reads and writes are free, and those are given by the total order: a value has its bytes on the
// device until the copy to the host, and again from the copy back. So
//  - a copy to the host is moved behind the work during which it is predicted to run, that nothing waits for it;
//  - a copy back is moved before the work that hides it, that its reader does not wait,
// each as far as the device has room: on the way bytes are live that were not. What is needed first is moved first.
// Predicted is one copy at a time per link and direction, beside the runs at their `start_s`.

/// Moves the copies within the total order. @param slack_bytes  [device] by how much more may be live than the most
/// that is now; less than nothing: only
///   where that much less is
/// @pre made by lower(), without offsets that count, record and wait. O(instructions + moves * distance).
void overlap_offload(Plan& plan, const std::vector<int64_t>& slack_bytes);

}  // namespace mpc
