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

  /// Of a queue, how many instructions have surely completed when `instruction` is done.
  int64_t known(size_t instruction, PlanIndex queue) const {
    const Moment& moment = moments[instruction];
    return moment.queue == queue ? moment.tick : snapshots[moment.snapshot * queue_count + queue];
  }

  // What a queue knows of the others changes only where it waits or receives: its instructions in between share a row.
  struct Moment {
    PlanIndex queue = 0;  // the instruction's own
    PlanIndex snapshot = 0;
    int64_t tick = 0;  // its place in its queue, from 1
  };
  size_t queue_count = 0;
  std::vector<Moment> moments;     // [instruction]
  std::vector<int64_t> snapshots;  // [snapshot][queue]
};

/// Orders every two instructions of different queues of which one writes bytes that the other reads or writes; nothing
/// is added where queue order, earlier waits or send/recv pairs already do (vector clocks).
/// @pre no record and wait among the instructions. O(instructions * queues + accesses log slices).
QueueOrder order_queues(const Plan& plan);

}  // namespace mpc
