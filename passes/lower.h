#pragma once

#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/ir/graph.h"
#include "compiler/plan/plan.h"
#include "passes/schedule/schedule.h"

namespace mpc {

/// Turns a scheduled graph into a plan with instructions and slices, but without offsets (plan_memory) and without
/// record/wait (synchronize). Per task, in the schedule's order: feeds of inputs a device has not got yet, the
/// segment's nodes, each followed by the fetches of its outputs and by the transfers (send, recv) that are complete
/// with it; what waits in host memory comes back right before its first reader. `start_s` of runs is what the schedule
/// predicts. `graphs` holds the local graph once per variant. In the first micro-batch GradAccumulate has no
/// accumulator operand: it stores. O(instructions).
Plan lower(const std::vector<const Graph*>& graphs, const Segments& segments, const Schedule& schedule,
           const Cluster& cluster, int microbatches);

}  // namespace mpc
