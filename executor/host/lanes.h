#pragma once

#include <string>
#include <vector>

#include "compiler/plan/plan.h"

namespace mpc::executor {

/// Queues that one thread serves.
struct LaneQueues {
  std::vector<PlanIndex> queues;  // ascending
};

struct LaneRules {
  /// May lanes share a thread where the plan's events put all their work into one order? Two threads could never work
  /// at the same time there and would only wake each other: a chain of devices with one micro-batch is one lane.
  /// Devices with different numbers of threads stay apart.
  bool merges_serial = true;
  /// Cores that lanes have. A link has no core of its own when the devices' threads and the links are more: then its
  /// copies are the work of its ends, who would otherwise be interrupted for them at the system's leisure.
  int cores = 1;
};

/// Divides the plan's queues into lanes. The two queues of a link, send and recv, are in one lane: the recv moves the
/// bytes. O(instructions * lanes). @pre the plan passed check_plan.
std::vector<LaneQueues> divide_into_lanes(const Plan& plan, const LaneRules& rules);

/// A link that no lane serves alone: it has no thread of its own, and its ends compute in different lanes.
struct SharedQueues {
  LaneQueues queues;
  size_t sender = 0;  // lanes
  size_t receiver = 0;
};

/// Takes such links out of the lanes.
std::vector<SharedQueues> take_shared_links(const Plan& plan, std::vector<LaneQueues>& lanes);

/// The devices the lane computes on, "cpu:0+cpu:1"; a lane without any is named after its links, "cpu:0>cpu:1".
std::string lane_name(const Plan& plan, const LaneQueues& lane);

}  // namespace mpc::executor
