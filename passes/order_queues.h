#pragma once

#include <cstdint>
#include <vector>

#include "compiler/plan/plan.h"

namespace mpc {

/// Where queues must wait for each other so that every execution does what the total order does.
struct QueueOrder {
  struct Wait {
    PlanIndex queue = 0;
    PlanIndex event = 0;
  };
  std::vector<std::vector<Wait>> waits;  // [instruction]: right before it
  std::vector<PlanIndex> event;          // [instruction]: recorded right after it; kNone: no one waits for it
  PlanIndex event_count = 0;
  /// [instruction][queue]: how many instructions of that queue have surely completed when this one is done.
  std::vector<std::vector<int64_t>> known;
};

/// Orders every two instructions of different queues of which one writes bytes that the other reads or writes; nothing
/// is added where queue order, earlier waits or send/recv pairs already do (vector clocks).
/// @pre no record and wait among the instructions. O(instructions * queues + accesses log slices).
QueueOrder order_queues(const Plan& plan);

}  // namespace mpc
